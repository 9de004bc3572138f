"""Domain separation: one label for each use of a key or a hash; never reused, never renumbered.

A label is part of what is signed, derived or hashed, so that bytes made for one purpose mean
nothing for another. They stand together so that a reader sees at a glance that no two are alike.
"""

ROSTER = b"tacit v1 roster"
RUN_KEY = b"tacit v1 run key"
MODEL_DIGEST = b"tacit v1 model digest"
CONFIG_DIGEST = b"tacit v1 configuration digest"
SETUP_DIGEST = b"tacit v1 setup digest"
COHORT = b"tacit v1 cohort"
SESSION = b"tacit v1 session"
PAIR_MASK = b"tacit v1 pair mask"
SELF_MASK = b"tacit v1 self mask"
SHARE_KEY = b"tacit v1 share key"
SHARE_HASH = b"tacit v1 share hash"
SECRET_HASH = b"tacit v1 secret hash"
REPORT = b"tacit v1 report"
SURVIVORS = b"tacit v1 survivors"
SIMULATED = b"tacit v1 simulated federation"
VAULT = b"tacit v1 vault"
