"""Ray exporter: metrics of a process that Ray started, which Ray's own agent collects and exports.

Ray puts `ray_` before each name, and `_total` behind that of a counter. Without the former, as
`docs/how-to/operations.md` has Prometheus relabel it, the names are those of the table.
"""

from ray.util.metrics import Counter, Gauge, Histogram

from services.metrics.recorder import Metrics
from services.metrics.table import Metric, Process

PREFIX = "ray_"
"""The prefix that Ray puts before each name."""


class RayMetrics(Metrics):
    """Metrics in Ray.

    They appear at Ray's metrics port some ten seconds later, as long as the process lives, with
    labels that name the process.
    """

    def __init__(self, *, process: Process = "worker") -> None:
        super().__init__(process)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in self.table.values():
            self._add(metric)

    def _add(self, metric: Metric) -> None:
        if metric.kind == "counter":
            name = metric.name.removesuffix("_total")
            self._counters[metric.name] = Counter(name, metric.help, metric.labels)
        elif metric.kind == "gauge":
            self._gauges[metric.name] = Gauge(metric.name, metric.help, metric.labels)
        else:
            self._histograms[metric.name] = Histogram(
                metric.name, metric.help, list(metric.buckets), metric.labels
            )

    def _count(self, metric: Metric, n: float, labels: dict[str, str]) -> None:
        if n:  # Ray refuses to add 0.
            self._counters[metric.name].inc(n, labels)

    def _observe(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        self._histograms[metric.name].observe(value, labels)

    def _set(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        self._gauges[metric.name].set(value, labels)
