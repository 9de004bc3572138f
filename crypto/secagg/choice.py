"""Masks or lattice keys: which of the two a cohort's sum is made with, where both are allowed.

Both promise the same, so that is decided by what a sum costs a device (`costs`): computing,
and sending at `UPLINK` bytes a second. With 25 bits a value under masks, the parameter set
4096-64-2, and all of the roster in the cohort, lattice keys are the better

    of 50 devices, 33 % corrupt, 30 % missing      for no model
    of 100 devices, 33 % corrupt, 30 % missing     from 1.4 million parameters on
    of 200 devices, 10 % corrupt, 10 % missing     from 300 thousand on
    of 1000 devices, 10 % corrupt, 20 % missing    for any model

and with 16 bits a value, by which masks send a third less, only in the last case.

A set has the bits that it has, so a sum may be rounded more coarsely under lattice keys. n devices,
each of which rounds to one of two neighbouring steps, leave the mean with a standard deviation of
at most sqrt(n) * 2**-bits of the bound. That has to be at most FINE, or what masks leave. The
default federation with 30 devices ends as accurate at 2**-20.5 as at 2**-27, and at 2**-18.5 it
loses 0.8 points.
"""

import math
from dataclasses import dataclass

from tacit.crypto.errors import ParameterError
from tacit.crypto.lattice.sets import Lattice
from tacit.crypto.secagg import costs

FINE = 2.0**-20


@dataclass(frozen=True, slots=True)
class Choice:
    """`keys` is the parameter set, with its bits, where lattice keys are better, None for masks;
    `why` says so in words."""

    keys: Lattice | None
    why: str


def choose_way(
    base: Lattice, devices: int, size: int, bits: int, degree: int, members: int
) -> Choice:
    """Which way is better for `devices` vectors of `size` elements and a committee of `members`.

    Masks would be with `degree` neighbours in a ring of `bits` bits, keys of the set `base`.
    """
    try:
        scheme = base.room(devices, size)
    except ParameterError as full:
        return Choice(None, str(full))
    if _rounding(devices, scheme.bits) > max(FINE, _rounding(devices, bits)):
        return Choice(
            None, f"{base.name} leaves the sum of {devices} devices {scheme.bits} bits: too coarse"
        )
    masks = costs.masked(size, bits, degree, members).total
    keys = costs.encrypted(scheme, size, members).total
    return Choice(
        scheme if keys < masks else None,
        f"computing, and sending {costs.UPLINK / 1e6:g} MB a second, take a device {keys:.3g} s "
        f"with lattice keys and {masks:.3g} s with masks",
    )


def _rounding(devices: int, bits: int) -> float:
    """Standard deviation of the mean's rounding, as a fraction of the bound."""
    return math.sqrt(devices) * 2.0**-bits
