"""What the gate tells Prometheus. Names of keys are no labels: nothing bounds their number."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

MEDIA_TYPE = CONTENT_TYPE_LATEST
LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """In a registry of its own, so that two gates in a process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "gate_requests", "Requests by the stage that ended them", ["stage", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._answers = Counter("gate_answers", "Inputs answered", registry=self._registry)
        self._seconds = Histogram(
            "gate_seconds", "From request to answer", buckets=LATENCIES, registry=self._registry
        )
        self._risk = Histogram(
            "gate_risk", "Risk of keys when they asked", buckets=SHARES, registry=self._registry
        )
        self._sound = Gauge("gate_sound", "1 while the log can be kept", registry=self._registry)
        self._sound.set(1)
        self._answered = self._requests.labels("log", "200")

    def answered(self, inputs: int, seconds: float) -> None:
        self._answered.inc()
        self._answers.inc(inputs)
        self._seconds.observe(seconds)

    def denied(self, stage: str, status: int) -> None:
        self._requests.labels(stage, str(status)).inc()

    def suspected(self, risk: float) -> None:
        self._risk.observe(risk)

    def text(self, *, is_sound: bool) -> bytes:
        """In Prometheus' text format, UTF-8."""
        self._sound.set(is_sound)
        return generate_latest(self._registry)
