"""Pairwise-masked sums: the server learns one sum over the survivors and nothing else.

    enrol (once per run)   every device    publishes a signed run key
    report                 every device    masked vector, and shares of the masks' keys
    attest                 committee       signs the one set of survivors
    reveal                 committee       opens what that set needs, and nothing else

A hybrid run has two more stages after enrol: see `hybrid`.

After Bonawitz et al. 2017 (doi:10.1145/3133956.3133982) with two changes: the per-session pair
keys are shared instead of a long-lived secret, after Flamingo (Ma et al. 2023,
doi:10.1109/SP46215.2023.10179434), so nothing that is ever opened is used again; and an ordinary
device speaks once per round.
"""
