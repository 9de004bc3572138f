"""Domain separation: one label for each use of a key or a hash; never reused, never renumbered.

A label is part of what is signed, derived or hashed, so that bytes made for one purpose mean
nothing for another. They stand together so that a reader sees at a glance that no two are alike.
"""

ROSTER = b"tacit v2 roster"
SEAT = b"tacit v2 committee seat"
RUN_KEY = b"tacit v2 run key"
MODEL_DIGEST = b"tacit v2 model digest"
CONFIG_DIGEST = b"tacit v2 configuration digest"
SETUP_DIGEST = b"tacit v2 setup digest"
COHORT = b"tacit v2 cohort"
SESSION = b"tacit v2 session"
ROUNDING = b"tacit v2 rounding"
EDGE = b"tacit v2 edge"
PAIR_MASK = b"tacit v2 pair mask"
SELF_MASK = b"tacit v2 self mask"
SHARE_COEFFICIENTS = b"tacit v2 share coefficients"
SHARE_KEY = b"tacit v2 share key"
SHARE_HASH = b"tacit v2 share hash"
SECRET_HASH = b"tacit v2 secret hash"
REPORT = b"tacit v2 report"
SURVIVORS = b"tacit v2 survivors"
SIMULATED = b"tacit v2 simulated federation"
VAULT = b"tacit v2 vault"
