"""What the dashboard tells Prometheus: where runs stand, made from the logs at each scrape.

Runs are labels, and only as many as the page lists: those that changed last. Devices are none.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tacit.server.dashboard.house import Deployed, House
from tacit.server.dashboard.run import Run

MEDIA_TYPE = CONTENT_TYPE_LATEST
STATUSES = ("queued", "running", "interrupted", "failed", "finished")
OF_RUNS = {
    "round": "The round that was begun last", "rounds": "Rounds in all",
    "accuracy": "Of the last round that ended", "loss": "Of the last round that ended",
    "survivors": "Devices that counted in the last sum of a training round",
    "cohort": "Devices that were asked for it", "round_seconds": "What the last round took",
    "epsilon_budget": "The most epsilon that the run may cost a device",
    "changed": "When the run was last written to, in Unix seconds",
}  # fmt: skip


def text(house: House, viewers: int) -> bytes:
    """In Prometheus' text format, UTF-8."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(house, viewers))
    return generate_latest(registry)


class _Collector:
    def __init__(self, house: House, viewers: int) -> None:
        self._house, self._viewers = house, viewers

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from _runs(self._house.runs)
        if self._house.deployed is not None:
            yield from _deployed(self._house.deployed)
        viewers = GaugeMetricFamily("tacit_dashboard_viewers", "Pages that are open")
        viewers.add_metric([], self._viewers)
        yield viewers


def _runs(runs: dict[str, Run]) -> Iterable[Metric]:
    told = {name: GaugeMetricFamily(f"tacit_{name}", said, labels=["run"])
            for name, said in OF_RUNS.items()}  # fmt: skip
    status = GaugeMetricFamily("tacit_run_status", "1 for what it is", labels=["run", "status"])
    epsilon = GaugeMetricFamily(
        "tacit_epsilon", "Spent by the device that spent most", labels=["run", "unit", "against"]
    )
    left_out = CounterMetricFamily(
        "tacit_left_out", "Times that a device dropped out, by stage", labels=["run", "stage"]
    )
    log, sound = _logs("tacit_log", "run")
    for name, run in runs.items():
        for field, value in _figures(run).items():
            if value is not None:
                told[field].add_metric([name], value)
        for each in STATUSES:
            status.add_metric([name, each], float(run.status == each))
        for spent in run.course.spent.values():
            if spent["epsilon"] is not None:
                labels = [name, spent["unit"], spent["against"]]
                epsilon.add_metric(labels, spent["epsilon"])
        for stage, times in run.course.left_out.items():
            left_out.add_metric([name, stage], times)
        log.add_metric([name], run.log.size)
        sound.add_metric([name], float(not run.log.fault))
    return [*told.values(), status, epsilon, left_out, log, sound]


def _figures(run: Run) -> dict[str, float | None]:
    latest = run.course.latest
    return {
        "round": run.course.last, "rounds": run.course.rounds,
        "accuracy": latest and latest.accuracy, "loss": latest and latest.loss,
        "survivors": latest and latest.survivors, "cohort": latest and latest.cohort,
        "round_seconds": latest and latest.seconds, "changed": run.files.changed,
        "epsilon_budget": run.privacy()["budget"],
    }  # fmt: skip


def _deployed(it: Deployed) -> Iterable[Metric]:
    up = GaugeMetricFamily("tacit_process_up", "1 while it runs", labels=["process"])
    starts = CounterMetricFamily(
        "tacit_process_starts", "Times that it was started", labels=["process"]
    )
    for name, process in it.processes.items():
        up.add_metric([name], float(process.is_up))
        starts.add_metric([name], process.starts)
    away = CounterMetricFamily("tacit_turned_away", "Callers that the front did not let through")
    away.add_metric([], it.turned_away.total())
    orders = CounterMetricFamily("tacit_orders_refused", "Orders that were not carried out")
    orders.add_metric([], it.refused_orders)
    log, sound = _logs("tacit_server_log", "log")
    for name, each in (("server", it.log), ("front", it.front)):
        log.add_metric([name], each.size)
        sound.add_metric([name], float(not each.fault))
    return [up, starts, away, orders, log, sound]


def _logs(name: str, label: str) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(f"{name}_entries", "Entries of the audit log", labels=[label]),
        GaugeMetricFamily(f"{name}_sound", "1 if every entry of it checks", labels=[label]),
    )
