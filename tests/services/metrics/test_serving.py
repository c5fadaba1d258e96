"""Metrics of a process that answers nothing else."""

import httpx

from services.metrics import PrometheusMetrics
from services.metrics.exporters import serve_metrics


def test_metrics_are_shown_at_a_port_of_their_own() -> None:
    metrics = PrometheusMetrics(process="dispatcher")
    metrics.count("dti_attempts_total", cause="succeeded")
    server = serve_metrics(metrics, 0, "127.0.0.1")
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        answer = httpx.get(f"{url}/metrics")
        assert 'dti_attempts_total{cause="succeeded"} 1.0' in answer.text
        assert answer.headers["content-type"].startswith("text/plain")
        assert httpx.get(f"{url}/").status_code == 404
    finally:
        server.shutdown()
        server.server_close()
