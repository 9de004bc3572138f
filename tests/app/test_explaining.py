"""`tacit explain`: what it says is what would be chosen, and it says it at once."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import pytest

from tacit.app.cli import main
from tacit.app.cli.explaining import OTHERS
from tacit.client.policy import Policy
from tacit.crypto.errors import PolicyRefusal
from tacit.crypto.identity import NO_KEM, RunKey
from tacit.crypto.lattice.sets import MODEL, SETS, SOURCE, WIDE
from tacit.crypto.secagg import costs
from tacit.crypto.secagg.parameters import choose, choose_committee
from tacit.crypto.secagg.session import Purpose
from tacit.crypto.simulated import simulated_roster
from tacit.crypto.wire import packed_size
from tacit.server.auto import Auto
from tacit.server.encrypted import Encrypted
from tacit.server.pairwise import Binding, Pairwise, SecureSum

LARGE = ("-n", "1000", "--gamma", "0.1", "--drop", "0.2")


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    def result(self) -> dict[str, Any]:
        """The one line of JSON that was printed."""
        return json.loads(self.out)


Secagg = Callable[..., Ended]


@pytest.fixture
def secagg(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Secagg:
    """Runs `tacit explain secagg` in this process, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["tacit", "explain", "secagg", *arguments])
        code: object = 0
        try:
            main.run()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, out, err)

    return call


def words(ended: Ended) -> str:
    """What was said, without the tables' lines and breaks."""
    assert (ended.code, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= 80
    return " ".join(ended.out.translate(dict.fromkeys(map(ord, "│┃━─"), " ")).split())


def test_a_large_cohort_is_explained(secagg: Secagg) -> None:
    said = words(secagg(*LARGE))
    for part in (
        "1000 devices, of which 100 may collude with the server and 200 may be missing.",
        "neighbours 346 each device masks with so many others on average",
        "committee 155 drawn by lot from a roster of 1000",
        "threshold 101 so many of them open a sum; 46 corrupt ones",
        "fewest survivors 800",
        "graph, each sum 2^-41",
        "committee, each roster 2^-41",
        "answers, each sum 2^-20",
        "100 the sum without their own: of 700 devices or more",
        "members 46 nothing more",
        "members 101 the masks' keys, and with them every single update",
        "a device sends 3.3 MB its masked vector, 26 bits for each of 1,000,000 parameters",
        "2.6 MB sealed shares",
        "corrupt 0.1 0.333",
        "Not covered (docs/security.md",
    ):
        assert part in said


def test_a_small_cohort_leaves_nothing_to_chance(secagg: Secagg) -> None:
    said = words(secagg("-n", "20", "-d", "1000"))
    for part in (
        "20 devices, of which 6 may collude with the server and 2 may be missing.",
        "neighbours 19 each device masks with all others",
        "committee 20 all of the cohort",
        "threshold 14 so many of them open a sum; 6 corrupt ones",
        "graph, each sum none",
        "committee, each roster none",
        "answers, each sum none",
    ):
        assert part in said


LATTICE = ("--protocol", "lattice")


def test_a_sum_under_lattice_keys_is_explained(secagg: Secagg) -> None:
    said = words(secagg(*LARGE, *LATTICE))
    for part in (
        "1000 devices, of which 100 may collude with the server and 200 may be missing.",
        "parameter set 4096-64-2 ring-LWE with N = 4096 and q = 2^64; a coefficient holds "
        "parameters of a sum: 2, of 26 bits each",
        f"security 192 bits {MODEL}; {SOURCE}",
        "committee 155 drawn by lot from a roster of 1000; they hold shares of each device's key",
        "threshold 101 so many of them open a sum; 46 corrupt ones",
        "fewest survivors 800",
        "noise, each sum 2^-111",
        "committee, each roster 2^-41",
        "answers, each sum 2^-20",
        "100 the sum without their own: of 700 devices or more",
        "members 46 nothing more",
        "members 101 each device's key, and with them every single update",
        "a device sends 4.0 MB its ciphertext, 4 bytes for each of 1,000,000 parameters",
        "1.3 MB sealed shares",
        "policy.lattice true false policy.corrupt 0.1 0.333",
        "nobody outside has reviewed them yet",
    ):
        assert part in said
    assert "neighbours" not in said
    assert "reviewed" not in words(secagg(*LARGE))


def test_room_is_for_so_many_devices_and_not_one_more(secagg: Secagg) -> None:
    result = secagg("-n", "100", *LATTICE, "--length", "1000", "--json").result()
    size, bits = 1000 + OTHERS, result["bits"]
    assert bits == WIDE.room(100, size).bits == WIDE.room(result["room"], size).bits
    assert WIDE.room(result["room"] + 1, size).bits == bits - 1


@pytest.mark.parametrize("parameters", list(SETS))
def test_programs_get_the_numbers_of_a_lattice_sum(secagg: Secagg, parameters: str) -> None:
    asked = ("--length", "2e6", "--parameters", parameters, *LATTICE, "--json")
    result = secagg("-n", "200", "--gamma", "0.1", *asked).result()
    found, scheme = choose_committee(200, 0.1, 0.1), SETS[parameters].room(200, 2_000_034)
    assert result.items() >= asdict(found).items()
    assert not result.keys() & {"degree", "cut_risk"}
    assert (result["protocol"], result["parameters"]) == ("lattice", parameters)
    cost = costs.encrypted(scheme, 2_000_034, found.seats)
    assert result["vector_bytes"] == scheme.packed_size(2_000_034) == cost.vector
    assert result["sealed_bytes"] == found.seats * (2 * scheme.degree + 32) == cost.sealed
    assert result["member_bytes"] == 200 * (2 * scheme.degree + 32)
    assert result["server_bytes"] == cost.vector + 200 * cost.sealed
    assert result["device_seconds"] == cost.seconds
    assert result["noise_risk"] == scheme.failure(200, 2_000_034) <= -40


def test_programs_get_the_numbers(secagg: Secagg) -> None:
    result = secagg(*LARGE, "--roster", "4000", "--length", "2e6", "--json").result()
    chosen = choose(1000, 0.1, 0.2, 4000)
    assert result.items() >= asdict(chosen).items()
    assert result["protocol"] == "pairwise"
    masks, seats, size = chosen.degree + 1, chosen.seats, 2_000_000 + OTHERS
    cost = costs.masked(size, 16 + 10, chosen.degree, seats)
    assert result["vector_bytes"] == packed_size(size, 26) == cost.vector
    assert result["sealed_bytes"] == seats * (masks * 48 + 16) + masks * 16 == cost.sealed
    assert result["member_bytes"] == 1000 * (masks * 48 + 16)
    assert result["server_bytes"] == 8 * size + 1000 * cost.sealed
    assert result["device_seconds"] == cost.seconds
    mask = costs.mask_seconds(26) * size
    assert result["server_seconds"] == pytest.approx(mask * (800 + 200 * chosen.degree))
    assert chosen.threshold == (seats + result["corrupt_seats"]) // 2 + 1


@pytest.mark.parametrize("protocol", [Pairwise, Encrypted])
@pytest.mark.parametrize(
    ("devices", "gamma", "drop"), [(100, 0.1, 0.1), (300, 0.05, 0.2), (33, 1 / 3, 0.1)]
)
def test_what_owners_have_to_set_is_what_devices_ask_for(
    secagg: Secagg, protocol: type[SecureSum], devices: int, gamma: float, drop: float
) -> None:
    """With these settings a device agrees to the sum; without any one of them it refuses."""
    asked = ("-n", str(devices), "--gamma", str(gamma), "--drop", str(drop))
    result = secagg(*asked, "--protocol", protocol.name, "--json").result()
    keys = [RunKey(d, d.to_bytes(32, "big"), NO_KEM, bytes(64)) for d in range(1, devices + 1)]
    roster, binding = simulated_roster(devices), Binding(bytes(32), bytes(32))
    session = protocol(corrupt=gamma, drop=drop).session(
        1, 1, Purpose.TRAIN, keys, roster, {}, 10, binding
    )
    asked_for = result["policy"]
    Policy(**asked_for).check(session, roster)
    assert ("lattice" in asked_for) == (protocol is Encrypted)
    assert ("corrupt" in asked_for) == (gamma < 1 / 3)
    for name in asked_for:
        others = {key: value for key, value in asked_for.items() if key != name}
        with pytest.raises(PolicyRefusal):
            Policy(**others).check(session, roster)


def test_what_cannot_happen_has_no_logarithm(secagg: Secagg) -> None:
    result = secagg("-n", "10", "--json").result()
    assert not result.keys() & {"cut_risk", "stall_risk"}
    assert choose(10, 1 / 3, 0.1).cut_risk == -math.inf


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-n 2 --gamma 0.9", "fewer than two honest ones would be left"),
        ("-n 1000 --drop 0.3333333333333333", "or take a cohort of at most 255"),
        ("-n 100 --gamma 0.1 --roster 50", "100 devices of a roster of 50"),
        ("-n 100 --gamma 10", "gamma=10"),
        ("-n 100 --gamma nan", "gamma=nan"),
        ("-n 100 --protocol plain", "expected one of pairwise, lattice, auto"),
        ("-n 100 --protocol lattice --parameters 1", "expected one of 2048-32-1, 4096"),
        ("-n 100 --length nan", "expected 1 to 1e12 parameters"),
        ("-n 100 --length inf", "expected 1 to 1e12 parameters"),
        ("-n 0", "not in the range"),
        ("-n many", "not a valid int"),
        ("--gamma 0.1", "Missing option"),
        ("-n 10 --quiet --json", "exclude each other"),
    ],
)
def test_a_mistake_ends_in_one_message(secagg: Secagg, arguments: str, said: str) -> None:
    ended = secagg(*arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


def test_help_explains_every_option(secagg: Secagg) -> None:
    said = words(secagg("--help"))
    for part in ("tacit explain secagg -n 1000", "collude with the server", "may be missing"):
        assert part in said


@pytest.mark.parametrize(
    ("cohort", "taken", "why"),
    [
        ("-n 20", "masks", "take a device 0.439 s with lattice keys and 0.329 s with masks."),
        (
            "-n 1000 --gamma 0.1 --drop 0.2",
            "lattice keys, where owners allow them",
            "take a device 0.565 s with lattice keys and 0.883 s with masks.",
        ),
        ("-n 1000 --gamma 0.1 --drop 0.2 --parameters 4096-64-3", "masks", "too coarse"),
    ],
)
def test_auto_says_what_it_takes_and_why(secagg: Secagg, cohort: str, taken: str, why: str) -> None:
    """And then all that is to be said of it, as if it had been asked for."""
    asked = (*cohort.split(), "--precision", "20")
    said = words(secagg(*asked, "--protocol", "auto"))
    assert f"auto takes {taken}: " in said
    assert why in said
    protocol = "lattice" if taken.startswith("lattice") else "pairwise"
    found = secagg(*asked, "--protocol", "auto", "--json").result()
    assert found == secagg(*asked, "--protocol", protocol, "--json").result()


def test_auto_takes_what_a_server_does(secagg: Secagg) -> None:
    for devices, length in ((50, "1e6"), (200, "1e5"), (200, "1e6"), (1000, "1e4")):
        asked = ("-n", str(devices), "--gamma", "0.1", "--drop", "0.1", "--length", length)
        found = secagg(*asked, "--precision", "25", "--protocol", "auto", "--json").result()
        chosen = Auto(corrupt=0.1, drop=0.1).choice(devices, devices, int(float(length)))
        assert found["protocol"] == chosen.name


def test_the_usual_parameter_set_is_that_of_the_settings(secagg: Secagg) -> None:
    result = secagg("-n", "10", *LATTICE, "--json").result()
    assert result["parameters"] == Encrypted().parameters


def test_nothing_heavy_is_loaded() -> None:
    """In a process of its own: names of modules, not seconds."""
    code = (
        "import sys; from tacit.app.cli.main import cli\n"
        f"try: cli(['explain', 'secagg', *{LARGE}])\n"
        "finally: print(*sorted({'flwr', 'pydantic', 'scipy', 'torch'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    *said, loaded = ran.stdout.splitlines()
    assert any("neighbours" in line for line in said)
    assert not loaded
