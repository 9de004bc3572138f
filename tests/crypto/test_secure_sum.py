"""The whole protocol against numpy: the exact sum of exactly the survivors, or none."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.crypto.codec import Codec
from tacit.crypto.errors import TooFewClients
from tacit.crypto.secagg.memory import Contribution, secure_sum
from tacit.crypto.secagg.revealing import Opened
from tacit.crypto.secagg.session import threshold_for
from tests.crypto.federation import Counted

# Widths of a ring, and whether a sum in it is masked in pairs or encrypted.
WAYS = [(24, ""), (32, ""), (33, ""), (62, "")]
WAYS += [(20, "2048-32-1"), (27, "4096-64-2"), (17, "4096-64-3")]
STAGES = ("report", "attest", "reveal")


@dataclass(frozen=True)
class Round:
    """A sum that is to be run, and who says nothing from which stage on."""

    codec: Codec
    steps: dict[int, list[int]]  # the updates, in steps of the grid
    losses: dict[int, float]
    silent: dict[int, str]
    min_survivors: int
    corrupt: int
    hybrid: bool
    lattice: str

    def speaking(self, stage: str) -> list[int]:
        """The devices that still speak at a stage."""
        gone = STAGES[: STAGES.index(stage) + 1]
        return [device for device in sorted(self.steps) if self.silent.get(device) not in gone]


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    devices = draw(st.lists(st.integers(1, 40), min_size=2, max_size=8, unique=True))
    bits, lattice = draw(st.sampled_from(WAYS))
    length = draw(st.integers(0, 5))
    codec = Codec(length, len(devices), 2, max_weight=8.0, metric_bound=4.0, bits=bits)
    # Small enough for the largest scale: numpy's float64 sum below is then exact.
    most = int(min(codec.bound * codec.scale, 2.0**48))
    steps = st.lists(
        st.integers(-most, most) | st.sampled_from([-most, most]), min_size=length, max_size=length
    )
    return Round(
        codec,
        {device: draw(steps) for device in devices},
        {device: draw(st.integers(-16, 16)) / 4 for device in devices},
        draw(st.dictionaries(st.sampled_from(devices), st.sampled_from(STAGES), max_size=4)),
        draw(st.integers(2, len(devices))),
        draw(st.integers(0, (len(devices) - 1) // 2)),
        draw(st.booleans()),
        lattice,
    )


@settings(max_examples=60)
@given(rounds())
def test_the_sum_is_numpys_over_the_survivors_or_there_is_none(case: Round) -> None:
    codec = case.codec
    inputs = {
        device: Contribution(
            np.array(row, np.float64) / codec.scale,
            np.array([case.losses[device]]),
            codec.max_weight,
        )
        for device, row in case.steps.items()
    }
    survivors = case.speaking("report")
    threshold = threshold_for(len(inputs), case.corrupt)
    enough = (
        len(survivors) >= case.min_survivors
        and len(case.speaking("attest")) >= threshold
        and len(case.speaking("reveal")) >= threshold
    )

    def run() -> Opened:
        return secure_sum(
            codec,
            inputs,
            ("loss",),
            Counted(),
            silent=case.silent,
            min_survivors=case.min_survivors,
            corrupt=case.corrupt,
            hybrid=case.hybrid,
            lattice=case.lattice,
        )

    if not enough:
        with pytest.raises(TooFewClients):
            run()
        return
    opened = run()
    assert opened.survivors == tuple(survivors)
    assert opened.bad == ()
    assert opened.metrics == ("loss",)
    summed = np.sum([case.steps[device] for device in survivors], axis=0, dtype=np.float64)
    assert np.array_equal(opened.mean.update, summed / (codec.scale * len(survivors)))
    assert opened.mean.weight == len(survivors) * codec.max_weight
    losses = np.sum([case.losses[device] for device in survivors]) / len(survivors)
    assert opened.mean.metrics.tolist() == [pytest.approx(losses, abs=1e-12), 0.0]


@pytest.mark.parametrize("lattice", ["", "2048-32-1", "4096-64-2"])
@pytest.mark.parametrize("silent", [{}, {2: "report"}, {1: "report", 3: "reveal"}])
def test_every_survivor_is_counted_once(silent: dict[int, str], lattice: str) -> None:
    """Device i sends the i-th unit vector: whoever is missing, or there twice, shows."""
    codec = Codec(6, 6, 0, bits=22)
    inputs = {
        device: Contribution(np.eye(6)[device - 1], np.zeros(0), codec.max_weight)
        for device in range(1, 7)
    }
    opened = secure_sum(codec, inputs, (), Counted(), silent=silent, lattice=lattice)
    there = [float(silent.get(device) != "report") for device in range(1, 7)]
    assert (opened.mean.update * len(opened.survivors)).tolist() == pytest.approx(there, abs=1e-12)
    assert opened.survivors == tuple(d for d in range(1, 7) if silent.get(d) != "report")


def test_weights_weigh() -> None:
    codec = Codec(1, 3, 1)
    weights = {1: 10.0, 2: 30.0, 5: 60.0}
    inputs = {
        device: Contribution(np.array([float(device)]), np.array([weight]), weight)
        for device, weight in weights.items()
    }
    opened = secure_sum(codec, inputs, ("n",), Counted(), silent={2: "report"})
    assert opened.mean.weight == 70.0
    # Each product is rounded by less than a step; their sum is divided by the weight's share.
    step = 2 / codec.scale / (70.0 / codec.max_weight)
    assert opened.mean.update[0] == pytest.approx((10 + 300) / 70, abs=step)
    assert opened.mean.metrics[0] == pytest.approx((100 + 3600) / 70, abs=1e-6)


def test_a_contribution_does_not_show_itself() -> None:
    assert "0.125" not in repr(Contribution(np.array([0.125]), np.array([0.125]), 0.125))
