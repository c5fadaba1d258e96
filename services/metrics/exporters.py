"""Prometheus exporter: metrics of a plain process, which Prometheus reads from the process itself.

Processes that Ray starts use `services.metrics.ray_exporter`, since nothing would read them. A
process without HTTP of its own serves /metrics by `services.health`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

from services.metrics.recorder import Metrics
from services.metrics.table import Metric, Process


class PrometheusMetrics(Metrics):
    """Metrics in a registry of prometheus-client of their own."""

    def __init__(
        self, registry: CollectorRegistry | None = None, *, process: Process = "api"
    ) -> None:
        super().__init__(process)
        # The time of creation would be one more series for each counter and histogram.
        disable_created_metrics()
        self._registry = registry or CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in self.table.values():
            self._add(metric)

    def exposition(self) -> tuple[bytes, str]:
        """Return all metrics in the text format of Prometheus, and its content type."""
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


@dataclass(frozen=True)
class MetricSamples:
    """Values read from an exposition: by name, each with its labels."""

    values: Mapping[str, list[tuple[Mapping[str, str], float]]]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the values that have these labels; 0 if there are none."""
        return sum(
            value
            for found, value in self.values.get(name, ())
            if labels.items() <= dict(found).items()
        )

    def buckets(self, name: str) -> list[tuple[float, float]]:
        """Return the ascending bounds of a histogram, each with the number of values up to it."""
        counts = defaultdict[float, float](float)
        for labels, value in self.values.get(f"{name}_bucket", ()):
            counts[inf if labels["le"] == "+Inf" else float(labels["le"])] += value
        return sorted(counts.items())


def parse_samples(text: str) -> MetricSamples:
    """Parse an exposition; names are those of the table, without Ray's prefix."""
    values = defaultdict[str, list[tuple[Mapping[str, str], float]]](list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name.removeprefix("ray_")].append((sample.labels, sample.value))
    return MetricSamples(values)
