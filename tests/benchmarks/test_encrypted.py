"""The benchmark of encrypted sums: its systems find the mean, its clocks and its verdicts work."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from subprocess import PIPE
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import encrypted
from benchmarks.shared import federation, growth, ratios
from benchmarks.shared.cohort import HEAVIEST, LIGHTEST
from benchmarks.shared.federation import BOUND
from benchmarks.shared.report import Report
from benchmarks.shared.rounds import measured
from benchmarks.shared.settings import (
    CKKS,
    FEDML,
    LATTICE,
    NVFLARE,
    PLAIN,
    RESNET20,
    RESNET20_SIZE,
    TENSEAL,
    Dealing,
    Setting,
    same_bits,
)
from benchmarks.shared.steps import Round, Step, Steps, middle, sees_children
from benchmarks.shared.sums import FEDAVG, TACIT, Cost
from benchmarks.shared.sums import PLAIN as AVERAGED
from tacit.crypto.he.sets import SCHEMES
from tacit.crypto.lattice.sets import SETS, WIDE
from tacit.server.encrypted import Encrypted

# A device's coordinate is rounded by less than a step, and no weight is below this of the heaviest.
STRETCH = HEAVIEST / LIGHTEST
# A slot has the noise of 8192 coefficients, of some hundreds each under a public key, at 2**40.
CKKS_ERROR = 8192 * 1000 * 2.0**-40
LATTICES = [Setting(LATTICE, 4, 500, name) for name in encrypted.SETS[LATTICE]]
TENSEALS = [Setting(TENSEAL, 4, 500, name) for name in encrypted.SETS[TENSEAL]]
SOME = Round(
    0.001, 0.02, 0.001, 0.0, 7e-4, 2e-4, 0.0, 0.03, 0.0, 0.1, 4.08e6, 4.1e6, 4e6, 1e-7, True
)
THEIRS = replace(SOME, hide=0.6, open=0.2, help=0.0, take=0.2, fold=0.2, exact=None)


SVG = "{http://www.w3.org/2000/svg}"
BURN = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"


@pytest.mark.parametrize("setting", LATTICES, ids=lambda setting: setting.parameters)
def test_sums_under_lattice_keys_are_exact(setting: Setting) -> None:
    found = measured(setting)
    assert found.exact
    bits = SETS[setting.parameters].room(4, setting.length).bits
    # The codec's scale is a power of two, so it may miss half of the room, and one bit is a sign.
    assert found.error < STRETCH * BOUND * 4 * 2.0 ** (3 - bits)
    for seconds in (found.keys, found.hide, found.help, found.take, found.fold, found.once):
        assert seconds > 0
    assert found.model == 4 * setting.length
    assert found.down > found.model  # what the committee is asked comes on top
    assert found.up > SETS[setting.parameters].packed_size(setting.length)


def test_a_sum_that_is_off_by_one_is_no_exact_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    def dishonest(state, session, agreed, encoded):
        encoded[0] += 1
        return federation.report(state, session, agreed, encoded)

    monkeypatch.setattr("benchmarks.shared.lattice_round.report", dishonest)
    assert measured(LATTICES[0]).exact is False


def test_the_silent_are_left_out() -> None:
    setting = Setting(LATTICE, 10, 300, WIDE.name, drop=0.2, seats=7)
    assert len(setting.cohort.silent) == 2
    found = measured(setting)
    assert found.error < 1e-4  # 0.05 / 8 would be that of a device too many
    assert measured(replace(setting, system=PLAIN, parameters="")).error < 1e-7


@pytest.mark.parametrize("setting", TENSEALS, ids=lambda setting: setting.parameters)
def test_sums_under_tenseal_are_exact(setting: Setting) -> None:
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")
    found = measured(setting)
    assert found.exact
    assert found.error < STRETCH * BOUND * 4 * 2.0 ** (3 - 21)
    assert (found.apart > 0) == sees_children()
    assert found.client == found.hide + found.open


@pytest.mark.parametrize("system", [FEDML, CKKS])
def test_sums_under_ckks_are_near(system: str) -> None:
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install '.[he]'")
    found = measured(Setting(system, 4, 500))
    assert found.exact is None
    assert found.error < CKKS_ERROR


def test_nvflare_finds_the_same_mean() -> None:
    pytest.importorskip("nvflare", reason="NVFlare is not installed: it wants its own Python")
    found = measured(Setting(NVFLARE, 3, RESNET20_SIZE, resnet=True))
    assert found.error < CKKS_ERROR
    assert found.up > 100 * RESNET20_SIZE  # every tensor has ciphertexts of its own


def test_bits_are_compared_up_to_the_rings() -> None:
    one = np.array([5, 1 << 21], np.uint32)
    assert same_bits(one, one | np.uint32(1 << 22), 22)
    assert not same_bits(one, one ^ np.uint32(1), 22)
    assert not same_bits(one, np.array([5, 0], np.uint32), 22)


def test_a_resnet_has_65_tensors() -> None:
    assert (len(RESNET20), RESNET20_SIZE) == (65, 272_474)
    setting = Setting(PLAIN, 3, RESNET20_SIZE, resnet=True)
    assert [tensor.shape for tensor in setting.tensors(0)] == RESNET20
    assert measured(setting).error < 1e-7


def test_the_parameters_are_those_that_tacit_offers() -> None:
    assert set(encrypted.SETS[LATTICE]) == set(SETS)
    assert set(encrypted.SETS[TENSEAL]) <= {scheme.name for scheme in SCHEMES.values()}
    assert ratios.DEFAULTS[LATTICE] == Encrypted().parameters


def test_steps_are_summed_by_device_and_the_median_is_taken() -> None:
    steps = Steps()
    for device, seconds in ((1, 0.3), (2, 0.1), (3, 0.2)):
        steps.seconds[Step.HIDE][device] += seconds / 2
        steps.seconds[Step.HIDE][device] += seconds / 2
        steps.seconds[Step.TAKE][device] += seconds
    with steps(Step.ONCE):
        sum(range(100_000))
    steps.sent, steps.received = Counter({1: 10, 2: 20, 3: 60}), Counter({1: 4})
    found = steps.round(3, 0.0, None)
    assert (found.hide, found.take, found.fold, found.open) == (0.2, 0.2, 0.2, 0.0)
    assert found.once > 0
    assert found.server == pytest.approx(0.6 + found.once)
    assert (found.up, found.down, found.model) == (20, 4, 3)


@pytest.mark.skipif(not sees_children(), reason="reads Linux's clocks of processes")
def test_the_work_of_a_process_that_we_started_counts() -> None:
    steps = Steps()
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=PIPE, stdout=PIPE) as child:
        with steps(Step.APART, 1), steps(Step.TAKE, 1):
            child.stdout.readline()
        child.communicate(b"end")
    assert steps.seconds[Step.APART][1] > steps.seconds[Step.TAKE][1] + 0.2


def test_one_that_is_not_exact_is_enough() -> None:
    rounds = [replace(SOME, hide=hide) for hide in (0.1, 0.3, 0.2)]
    assert middle(rounds) == replace(SOME, hide=0.2)
    assert middle([*rounds, replace(SOME, exact=False)]).exact is False
    assert middle([replace(SOME, exact=None)]).exact is None


def test_targets_are_met_or_missed() -> None:
    ours = Setting(LATTICE, 10, 1_000_000, WIDE.name)
    other = Setting(TENSEAL, 10, 1_000_000, "bfv-2048-seeded")
    seeded = replace(SOME, hide=0.3, open=0.1, take=0.03, fold=0.03, apart=0.02, model=7_500_000)
    rounds = {
        replace(ours, system=NVFLARE, parameters=""): THEIRS,
        ours: SOME,
        other: replace(seeded, up=3.8e6, down=7.5e6, exact=False),
        replace(ours, system=PLAIN, parameters=""): replace(SOME, model=4_000_000),
    }
    rows = {row.name: row for row in ratios.ratio_rows(rounds)}
    assert rows[f"client: NVFlare / {ours.name}"].ok
    assert rows[f"server: NVFlare / {ours.name}"].ok is False  # 286x
    assert rows[f"server, load and add alone: NVFlare / {ours.name}"].ok
    assert rows[f"down, the model: {ours.name}"].ok
    assert rows[f"client: NVFlare / {other.name}"].ok is False  # 2x
    assert rows[f"server: NVFlare / {other.name}"].ok is False  # 6.7x
    assert rows[f"server, in a process of its own: NVFlare / {other.name}"].ok
    assert rows[f"up: {other.name}"].ok
    sums = [row for name, row in rows.items() if name.startswith("sum of 10")]
    assert [row.ok for row in sums] == [True, False]

    told = ratios.untold(list(rows.values()))
    assert [row.ok for row in told if row.ok is not None] == [True, False]
    assert not any("NVFlare" in row.name for row in ratios.ratio_rows({ours: SOME}))

    many = {row.name: row for row in ratios.resnet_rows(rounds)}
    assert many[f"up: NVFlare / {ours.name}"].ok is False
    assert many[f"client: NVFlare / {other.name}"].ok is False
    picture = ratios.drawing("sums", {"one": rounds, "other": {ours: SOME}})
    texts = [text.text for text in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert {"38x", "290x"} < set(texts)  # a device's time, and the server's, by two digits


def test_a_line_for_each_setting_and_one_for_each_process() -> None:
    setting = Setting(TENSEAL, 10, 1_000_000, "bfv-4096")
    (name, cells), (apart, others) = ratios.lines({setting: replace(SOME, apart=0.5)})
    assert apart.startswith(name)
    assert [cell.name for cell in others if cell] == ["server, each", "server, once"]
    assert next(cell.value for cell in others if cell) == 500
    assert len(cells) == len(others)
    assert len(ratios.lines({setting: SOME})) == 1


def test_servers_are_compared_with_plain_ones() -> None:
    ours = Setting(LATTICE, 100, 1_000_000, WIDE.name, drop=0.1)
    rounds = {
        replace(ours, system=PLAIN, parameters=""): replace(SOME, server=0.1),
        ours: replace(SOME, server=0.2),
        replace(ours, seats=21): replace(SOME, server=0.12),
    }
    cost = Cost(0.02, 0.03, 0, 0.2, 0.2, 4e6, 4e6, 1e-7, 1, 1, 1, 0, 0, 0, 21, 11)
    costs = {AVERAGED: cost, FEDAVG: replace(cost, server=0.1), TACIT: cost}
    rows = {row.name: row for row in ratios.server_rows(rounds, costs)}
    assert rows[f"from bytes: {ours.name}, 100 hold shares / {PLAIN}"].ok is False
    assert rows[f"from bytes: {ours.name}, 21 hold shares / {PLAIN}"].ok
    assert rows["with messages: Tacit, lattice / plain averaging"].ok
    assert rows[f"with messages: Tacit, lattice / {FEDAVG}"].ok is False
    assert ratios.server_rows({}, {}) == []


def test_what_more_others_cost_a_device() -> None:
    few, many = Dealing(False, 3, 9, 400), Dealing(False, 8, 9, 400)
    masks = [replace(dealing, pairwise=True) for dealing in (few, many)]
    assert all(growth.seconds(dealing) > 0 for dealing in (few, many, *masks))
    found = {many: 1.4, few: 1.0, masks[0]: 1.0, masks[1]: 5.0}
    rows = {row.name: row for row in ratios.growth_rows(found)}
    assert rows["Tacit, lattice: 8 others / 3"].ok is False
    assert rows["Tacit, pairwise masks: 8 others / 3"].value == 5
    assert ratios.growth_rows({}) == []


def test_without_nvflare_it_says_how_to_get_it() -> None:
    report = Report(encrypted.__file__)
    assert encrypted.versions_of("/nonexistent/python", report) == ""
    if find_spec("nvflare") is None:
        assert encrypted.versions_of(sys.executable, report) == ""
    assert all("pip install 'nvflare[he]'" in note for note in report.notes)
    bench = encrypted.Bench(encrypted.QUICK, "", report)
    settings = bench.settings((NVFLARE, LATTICE), devices=4, length=100)
    assert settings == [replace(setting, length=100) for setting in LATTICES]


def test_a_setting_is_measured_in_a_fresh_process() -> None:
    bench = encrypted.Bench(encrypted.QUICK, "", Report(encrypted.__file__))
    assert bench.rounds([LATTICES[0]])[LATTICES[0]].exact
    assert bench.rounds([replace(LATTICES[0], parameters="none")]) == {}
    assert LATTICES[0].system in bench.report.notes[0]
