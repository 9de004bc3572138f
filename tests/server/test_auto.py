"""`Auto`: each cohort's sum is made with what is better for it, and says which that is."""

from typing import Any

import pytest

from tacit.client.policy import Policy
from tacit.crypto.errors import ParameterError, TooFewClients
from tacit.crypto.identity import NO_KEM, RunKey
from tacit.crypto.secagg import costs
from tacit.crypto.secagg.session import Purpose, Session
from tacit.crypto.simulated import simulated_roster
from tacit.server.auto import Auto
from tacit.server.encrypted import Encrypted
from tacit.server.events import LeftOut, SumFailed, SumOpened
from tacit.server.pairwise import Binding, Pairwise, SecureSum
from tests.server.test_grid import DEVICES, run

LARGE: dict[str, Any] = {"corrupt": 0.1, "drop": 0.2}


def session(protocol: SecureSum, devices: int, length: int) -> Session:
    keys = [RunKey(d, d.to_bytes(32, "big"), NO_KEM, bytes(64)) for d in range(1, devices + 1)]
    binding = Binding(bytes(32), bytes(32))
    return protocol.session(
        1, 1, Purpose.TRAIN, keys, simulated_roster(devices), {}, length, binding
    )


@pytest.mark.parametrize(
    ("devices", "length", "chosen"),
    [(10, 10**7, Pairwise), (200, 10**4, Pairwise), (200, 10**6, Encrypted), (300, 0, Pairwise)],
)
def test_a_session_is_that_of_the_protocol_which_is_better(
    devices: int, length: int, chosen: type[SecureSum]
) -> None:
    auto = Auto(**LARGE)
    made = session(auto, devices, length)
    assert isinstance(auto.choice(devices, devices, length), chosen)
    assert made == session(chosen(**LARGE), devices, length)
    assert auto.kind(made) == chosen.name
    Policy(corrupt=0.1, lattice=True).check(made, simulated_roster(devices))


def test_what_is_set_holds_for_whichever_is_taken() -> None:
    common: dict[str, Any] = {
        "bound": 2.0,
        "metrics": 3,
        "metric_bound": 10.0,
        "max_weight": 500.0,
        "min_survivors": 150,
        "seats": 40,
        "stage_deadline": 5.0,
        **LARGE,
    }
    auto = Auto(**common, precision=26, degree=90, parameters="4096-64-2")
    assert auto.choice(200, 200, 10**7) == Encrypted(**common, parameters="4096-64-2")
    assert auto.choice(200, 200, 10) == Pairwise(**common, precision=26, degree=90)
    assert auto.shape(200, 200) == Pairwise(**common, degree=90).shape(200, 200)


def test_values_that_have_no_room_in_the_set_are_masked() -> None:
    """Weights of 10**6 of 200 devices fill 2**28, and the set has 26 bits."""
    assert isinstance(Auto(**LARGE).choice(200, 200, 10**7), Encrypted)
    assert isinstance(Auto(**LARGE, max_weight=1e6).choice(200, 200, 10**7), Pairwise)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"parameters='none', expected one of 2048-32-1"):
        Auto(parameters="none")
    with pytest.raises(ParameterError, match=r"bits=63"):
        Auto(precision=61)
    with pytest.raises(ParameterError, match="corrupt"):
        Auto(corrupt=1.0)
    with pytest.raises(ParameterError, match="Lower gamma or drop"):
        session(Auto(), 1000, 10)
    with pytest.raises(TooFewClients, match="a cohort of 1"):
        session(Auto(), 1, 10)


def test_a_federation_whose_owners_allow_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that cost as much as this are too dear for the 33 values of a model, but not for an
    evaluation, which has none."""
    monkeypatch.setattr(costs, "MASK", 5e-6)
    auto = Auto()
    chosen = {length: auto.choice(DEVICES, DEVICES, length) for length in (33, 0)}
    assert [type(protocol) for protocol in chosen.values()] == [Encrypted, Pairwise]
    ran = run(protocol=auto, policy=Policy(lattice=True), fraction_evaluate=1.0)
    told = [(e.purpose, e.protocol, e.survivors) for e in ran.events if isinstance(e, SumOpened)]
    assert told == 2 * [("train", "lattice", DEVICES), ("evaluate", "pairwise", DEVICES)]
    assert [seen.protocol for seen in ran.seen] == ["lattice", "lattice"]

    # Owners who do not allow lattice keys have told no server: their devices refuse.
    refused = run(protocol=auto, policy=Policy(), rounds=1)
    assert [e.purpose for e in refused.of(SumFailed, 1)] == ["train"]
    assert all("policy.lattice" in e.reason for e in refused.of(LeftOut, 1))


def test_without_reason_to_it_takes_masks() -> None:
    ran = run(protocol=Auto(), policy=Policy(lattice=True), rounds=1)
    assert [e.protocol for e in ran.of(SumOpened, 1)] == ["pairwise"]
    assert [seen.protocol for seen in ran.seen] == ["pairwise"]
