"""Sums of vectors encrypted under one-time lattice keys: the mathematics, and nothing else.

Every device has a key s of its own, used once. Block by block of its vector m it sends

    c = a * s + e + Delta * m        in Z_q[X] / (X^N + 1),    Delta = q / 2**(fields * bits)

where a is public and the same for all, and s and e are small. Such ciphertexts add up, and so do
the keys: the sum of the c opens with the sum of the s, to the sum of the m, and with nothing less.
A key has N small coefficients, however long the vector is, so it is the key that is shared among
the members of a committee, who give out the sum of the shares of those who are to be summed.

    sets     which N, q and widths are offered, what they are worth, and how many bits are left
    sampler  centred binomial noise
    ring     products in Z_q[X] / (X^N + 1)
    cipher   encrypt, add, open_sum
    keys     a key, its shares, their sums; and who gave a wrong one

Additively homomorphic ring-LWE is Brakerski and Vaikuntanathan 2011 (doi:10.1007/
978-3-642-22792-9_29); with keys that are used once and summed it is in ACORN, Bell et al. 2022
(ePrint 2022/1461), section 3.2. The way of the key through Shamir's sharing is the plain one.

Coefficients stand in *pairs* throughout, in words, errors and keys alike: position 2j holds
coefficient j, position 2j + 1 coefficient j + N/2. That is what the product works on.
"""
