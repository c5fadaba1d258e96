"""Metrics: one table, one way to count, and two exporters.

A process calls `metrics.use(PrometheusMetrics(process="api"))` once; everything in it counts with
`metrics.current().count("dti_subjects_total", outcome="succeeded")`.
"""

from services.metrics.exporters import PrometheusMetrics
from services.metrics.recorder import Metrics, NoMetrics, current, use
from services.metrics.table import (
    HTTP_ROUTES,
    MAX_SERIES,
    OTHER,
    TABLE,
    TIMED_ROUTES,
    FirstValues,
    KnownValues,
    Metric,
    Process,
)

__all__ = [
    "HTTP_ROUTES",
    "MAX_SERIES",
    "OTHER",
    "TABLE",
    "TIMED_ROUTES",
    "FirstValues",
    "KnownValues",
    "Metric",
    "Metrics",
    "NoMetrics",
    "Process",
    "PrometheusMetrics",
    "current",
    "use",
]
