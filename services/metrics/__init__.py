"""What the service counts: one table, one way to count, and what exports it.

A process says once `metrics.use(PrometheusMetrics(process="api"))`; all that it runs counts with
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
    First,
    Known,
    Metric,
    Process,
)

__all__ = [
    "HTTP_ROUTES",
    "MAX_SERIES",
    "OTHER",
    "TABLE",
    "TIMED_ROUTES",
    "First",
    "Known",
    "Metric",
    "Metrics",
    "NoMetrics",
    "Process",
    "PrometheusMetrics",
    "current",
    "use",
]
