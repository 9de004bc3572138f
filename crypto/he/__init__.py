"""Sums under a standard homomorphic encryption library, TenSEAL: "consortium mode".

For those who must use such a library. All devices of a consortium hold one key, made by one of
them: a server by itself learns the sum and nothing else, but **a device that colludes with the
server opens every input**. `tacit.crypto.secagg` and `tacit.crypto.lattice` promise more for less.

    sets      the parameter sets, and how many devices each has room for
    packing   ring elements as slots of plaintexts, and back
    tags      a checksum that only the sum over the right set of devices carries
    frames    the bytes of every object, the library's version among them
    doors     the library, by way of its documented interface or of the one below
    bfv       make a key, encrypt, add, decrypt, under CKKS too
    keys      the group's key, and its box for each of the members
    dealing   one member makes the key, the server carries it to the others
    sums      one device's contribution, and the opening of a sum

Needs `pip install '.[he]' in Tacit's checkout`; nothing is imported from there before it is used.

Why BFV and not CKKS, which peers use. CKKS decrypts to the message plus a part of the noise that
hides it, and whoever sees both a ciphertext and its decryption, as the server of a federation does
with every sum, computes the key from them: Li and Micciancio, "On the Security of Homomorphic
Encryption on Approximate Numbers", Eurocrypt 2021 (eprint 2020/1533). A BFV decryption says nothing
of the noise as long as it is right; where it may be wrong there are attacks on it too (Bultel et
al. 2025, eprint 2025/2288). So a set refuses more devices than it surely decrypts for, see
`sets.Scheme.room`, and a device gives out nothing but sums, see `tags`. One set is of CKKS all the
same, for compatibility: its decryptions are rounded to the exact sum before they leave `doors`.
"""
