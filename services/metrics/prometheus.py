"""Metrics of a plain process, which Prometheus reads from the process itself.

In processes that Ray started they would be seen by nobody: `services.metrics.ray_metrics`.
"""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from services.metrics.entries import Metric, Process
from services.metrics.facade import Metrics


class PrometheusMetrics(Metrics):
    """Kept by prometheus-client, in a registry of their own."""

    def __init__(
        self, registry: CollectorRegistry | None = None, *, process: Process = "api"
    ) -> None:
        super().__init__(process)
        # One more series for each counter and histogram, which nobody asked for.
        disable_created_metrics()
        self._registry = registry or CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in self.table.values():
            self._add(metric)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics as Prometheus reads them, and the content type of that."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _add(self, metric: Metric) -> None:
        given = metric.name, metric.help, metric.labels
        if metric.kind == "counter":
            self._counters[metric.name] = Counter(*given, registry=self._registry)
        elif metric.kind == "gauge":
            self._gauges[metric.name] = Gauge(*given, registry=self._registry)
        else:
            self._histograms[metric.name] = Histogram(
                *given, buckets=metric.buckets, registry=self._registry
            )

    def _count(self, metric: Metric, n: float, labels: dict[str, str]) -> None:
        counter = self._counters[metric.name]
        (counter.labels(**labels) if labels else counter).inc(n)

    def _observe(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        histogram = self._histograms[metric.name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def _set(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        gauge = self._gauges[metric.name]
        (gauge.labels(**labels) if labels else gauge).set(value)
