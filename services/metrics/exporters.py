"""Metrics of a plain process, which Prometheus reads from the process itself.

In processes that Ray started they would be seen by nobody: `services.metrics.ray_exporter`.

A process that answers nothing else shows its metrics at /metrics of a port of its own.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


@dataclass(frozen=True)
class TrainingBatch:
    """Values of an exposition: by name, each with its labels."""

    values: Mapping[str, list[tuple[Mapping[str, str], float]]]

    def total(self, name: str, **labels: str) -> float:
        """The sum of those that have these labels; 0 if there are none."""
        return sum(
            value
            for found, value in self.values.get(name, ())
            if labels.items() <= dict(found).items()
        )

    def buckets(self, name: str) -> list[tuple[float, float]]:
        """Of a histogram: bounds, ascending, and how many values are at most that."""
        counts = defaultdict[float, float](float)
        for labels, value in self.values.get(f"{name}_bucket", ()):
            counts[inf if labels["le"] == "+Inf" else float(labels["le"])] += value
        return sorted(counts.items())


def samples(text: str) -> TrainingBatch:
    """An exposition, read; names as in the table, without what Ray puts before them."""
    values = defaultdict[str, list[tuple[Mapping[str, str], float]]](list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name.removeprefix("ray_")].append((sample.labels, sample.value))
    return TrainingBatch(values)


def serve(metrics: PrometheusMetrics, port: int, host: str = "0.0.0.0") -> ThreadingHTTPServer:
    """Answer on a thread of its own, until the process ends. port: 0: any that is free.

    Raises: OSError if the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body, media_type = metrics.exposition()
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not in the log: it is asked every few seconds."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
