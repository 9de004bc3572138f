"""What a private sum costs those who are in it: from what a session says to a ledger's records."""

from tacit.crypto.secagg.noised import Noised
from tacit.privacy.mechanisms import Mechanism
from tacit.privacy.releases import Discrete, Neighbours, Release, Source, Unit, Use
from tacit.privacy.samplers import Skellam


def unit_of(agreed: Noised) -> Unit:
    """What is protected."""
    return Unit.RECORD if agreed.records else Unit.CLIENT


def neighbours_of(unit: Unit) -> Neighbours:
    """What it is put against: an example's absence, and zeros in the place of a device's update,
    since a device that is not there adds no noise either."""
    return Neighbours.ADD_OR_REMOVE if unit is Unit.RECORD else Neighbours.ZERO_OUT


def releases_of(
    agreed: Noised, run: int, round: int, survivors: int, corrupt: int
) -> tuple[Release, ...]:
    """What is let out by a sum over `survivors`, of whom `corrupt` at most tell their noise.

    Count as many of either as are for certain: the server knows who survived, a device has to
    think of the fewest that there may be. Where a single share does for all of the noise, the
    others' are not counted, however many there are. Raises ParameterError for a session whose ring
    has no room, or without an honest survivor.
    """
    mechanism, unit = Mechanism.of(agreed), unit_of(agreed)
    if agreed.bands:  # whoever is in it pays for the rounds that it is mixed into
        banded = mechanism.banded(agreed.bands)
        return (banded.release(run, round, agreed.clients, survivors),)
    source = Source.SHARED
    if agreed.central:
        source = Source.SERVER
    elif mechanism.shares == 1:
        source = Source.OWN
    if source is not Source.SHARED:
        corrupt = 0

    def release(made: Discrete, use: Use) -> Release:
        return Release(
            made, unit, neighbours_of(unit), source, use, run, round, agreed.clients, survivors,
            corrupt, is_count_hidden=unit is Unit.RECORD,  # an update is a sum over all examples
        )  # fmt: skip

    update = Discrete(Skellam(mechanism.share), mechanism.bound, mechanism.coordinates)
    if not agreed.quantile:
        return (release(update, Use.TRAIN),)
    norms = Discrete(Skellam(mechanism.quantile_share), mechanism.level**2, 1)
    return release(update, Use.TRAIN), release(norms, Use.CLIP_BIT)
