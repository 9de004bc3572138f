"""What Prometheus is told, and that the board asks for nothing else."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tacit.app.watching import house_of
from tacit.server.dashboard.metrics import text
from tests.server.dashboard import stage

ROOT = Path(__file__).parents[3]
BOARD = ROOT / "deploy" / "grafana" / "tacit.json"
_WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@pytest.fixture
def told(tmp_path: Path) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels."""
    path = tmp_path / "federation"
    stage.server(path)
    stage.run(path / "runs" / "hospitals", rounds=4)
    house = house_of(path)
    house.look()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text(house, 3).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_where_a_run_stands(told) -> None:
    run = (("run", "hospitals"),)
    assert told["tacit_round"][run] == 4
    assert told["tacit_rounds"][run] == 8
    assert told["tacit_accuracy"][run] == 1 - 0.9 / 4
    assert told["tacit_loss"][run] == 2.2 / 4
    assert told["tacit_survivors"][run] == 8
    assert told["tacit_cohort"][run] == 10
    assert told["tacit_left_out_total"][(*run, ("stage", "report"))] == 6
    assert told["tacit_epsilon_budget"][run] == 8
    assert told["tacit_epsilon"][(("against", "server"), *run, ("unit", "client"))] == 2.8
    assert told["tacit_run_status"][(*run, ("status", "running"))] == 1
    assert told["tacit_run_status"][(*run, ("status", "failed"))] == 0
    assert told["tacit_log_sound"][run] == 1
    assert told["tacit_log_entries"][run] == 10


def test_where_a_server_stands(told) -> None:
    assert told["tacit_process_up"][(("process", "superexec"),)] == 1
    assert told["tacit_process_starts_total"][(("process", "superexec"),)] == 2
    assert told["tacit_turned_away_total"][()] == 44
    assert told["tacit_orders_refused_total"][()] == 1
    assert told["tacit_server_log_entries"][(("log", "front"),)] == 2
    assert told["tacit_dashboard_viewers"][()] == 3


def test_a_run_that_has_not_begun_has_no_accuracy(tmp_path: Path) -> None:
    stage.run(tmp_path / "mine")
    house = house_of(tmp_path / "mine")
    house.look()
    assert "tacit_accuracy{" not in text(house, 0).decode()


def test_the_board_asks_for_what_there_is(told) -> None:
    board = json.loads(BOARD.read_text("utf-8"))
    asked = [each["expr"] for panel in board["panels"] for each in panel["targets"]]
    asked += [each["definition"] for each in board["templating"]["list"] if "definition" in each]
    named = {word for expr in asked for word in _WORDS.findall(expr) if word.startswith("tacit_")}
    assert named <= told.keys()
    assert told.keys() == named  # and nothing is told that nobody sees
    labels = {name: {label for key in series for label, _ in key} for name, series in told.items()}
    for expr in asked:
        for name, inside in re.findall(r"(tacit_\w+)\{([^}]*)\}", expr):
            assert set(re.findall(r"(\w+)\s*=", inside)) <= labels[name], expr
    legends = [
        (each["expr"], each["legendFormat"]) for p in board["panels"] for each in p["targets"]
    ]
    for expr, legend in legends:
        known = set().union(*(labels[n] for n in _WORDS.findall(expr) if n in labels))
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= known, expr


def test_the_board_s_panels_have_numbers_and_places_of_their_own() -> None:
    panels = json.loads(BOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y) for panel in panels for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]  # fmt: skip
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
