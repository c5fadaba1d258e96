"""What the service counts: one table, one way to count, and what exports it.

A process says once `metrics.use(PrometheusMetrics(process="api"))`; all that it runs counts with
`metrics.current().count("dti_subjects_total", outcome="succeeded")`.
"""

from services.metrics.entries import OTHER, First, Known, Metric, Process
from services.metrics.facade import Metrics, NoMetrics, current, use
from services.metrics.prometheus import PrometheusMetrics
from services.metrics.table import HTTP_ROUTES, MAX_SERIES, TABLE, TIMED_ROUTES

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
