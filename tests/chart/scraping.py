"""A real Prometheus that scrapes the service as the rendered monitors say."""

import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from chart.rendering import CHART, Object

from services.metrics import Metric, Process, PrometheusMetrics

RECORDED = Path(__file__).with_name("ray_metrics.txt")


def page(process: Process) -> str:
    """The metrics of a process that has counted everything with every known label."""
    metrics = PrometheusMetrics(process=process)
    for metric in metrics.table.values():
        for labels in _labellings(metric):
            if metric.kind == "counter":
                metrics.count(metric.name, **labels)
            elif metric.kind == "gauge":
                metrics.set(metric.name, 1, **labels)
            else:
                metrics.observe(metric.name, 1, **labels)
    return metrics.exposition()[0].decode()


def _labellings(metric: Metric) -> Iterator[dict[str, str]]:
    groups: list[list[dict[str, str]]] = []
    for group in metric.label_groups:
        values = getattr(group, "values", [("sdxl",)])
        groups.append([dict(zip(group.labels, each, strict=True)) for each in values])
    for parts in itertools.product(*groups):
        yield {label: value for part in parts for label, value in part.items()}


def ray_page() -> str:
    """What a Ray node exports: its own metrics, recorded, and ours in the same form."""
    lines = [RECORDED.read_text()]
    for process in ("supervisor", "worker", "engine"):
        own = (
            'Component="core_worker",NodeAddress="10.0.0.7",SessionName="session",'
            f'Version="2.60.0",WorkerId="{process}"'
        )
        for line in page(process).splitlines():
            if not line.startswith("#"):
                name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
                lines.append(f"ray_{name}{{{own}{',' + labels if labels else ''}}} {value}\n")
    return "".join(lines)


@contextmanager
def served(text: str) -> Iterator[int]:
    """A page at /metrics of a port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def scrape_config(
    monitor: Object, targets: Sequence[str], labels: Mapping[str, str] | None = None
) -> Object:
    """The scrape configuration that the Prometheus operator makes of a monitor.

    targets: HOST:PORT of pods.
    labels: those of the pods.
    """
    spec = monitor["spec"]
    (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
    meta = {
        f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": value
        for name, value in (labels or {}).items()
    }
    return {
        "job_name": f"{monitor['kind']} {monitor['metadata']['name']} {meta}",
        "scrape_interval": "1s",
        "metrics_path": endpoint["path"],
        "static_configs": [
            {
                "targets": list(targets),
                "labels": {"namespace": "prod"} | meta,
            }
        ],
        "relabel_configs": [_snake(each) for each in endpoint["relabelings"]],
        "metric_relabel_configs": [_snake(each) for each in endpoint.get("metricRelabelings", [])],
    }


def _snake(relabeling: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub("[A-Z]", lambda c: "_" + c[0].lower(), k): v for k, v in relabeling.items()}


SELECTOR = re.compile(r"\b(?:dti_|ray_|release\w*:|up\b)[\w:]*(?:\{[^}]*\})?")
"""A selector of series in a query."""


def panels() -> list[tuple[str, dict[str, Any]]]:
    """The queries of all dashboards, each with the title of its panel."""
    return [
        (f"{path.stem}: {panel['title']}", target)
        for path in sorted(CHART.glob("files/dashboards/*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def query_of(target: Mapping[str, Any]) -> str:
    """The query of a panel, for all namespaces and releases."""
    expression = target["expr"].replace("$__rate_interval", "1m")
    return re.sub(r"\$(namespace|release)", ".*", expression)


def prometheus_program() -> str:
    """The path of Prometheus. Skips the test if there is none."""
    promtool = os.environ.get("DTI_TEST_PROMTOOL") or shutil.which("promtool") or ""
    binary = shutil.which("prometheus", path=str(Path(promtool).parent))
    if not binary:
        pytest.skip("there is no prometheus beside DTI_TEST_PROMTOOL or the promtool on the PATH")
    return binary


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector, with their labels as `metric`."""
        return self.ask("query", query=expression)["result"]


@contextmanager
def prometheus(
    binary: str, folder: Path, scrapes: Sequence[Object], rules: Object, port: int
) -> Iterator[Prometheus]:
    """Prometheus with these scrape configurations and rules, after a few scrapes."""
    (folder / "rules.json").write_text(json.dumps(rules))
    config = {
        "global": {"evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.json")],
        "scrape_configs": list(scrapes),
    }
    (folder / "prometheus.json").write_text(json.dumps(config))
    arguments = (
        f"--config.file={folder / 'prometheus.json'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        _wait_for_scrapes(running, process, folder / "log")
        yield running
    finally:
        process.terminate()
        process.wait(20)


def _wait_for_scrapes(running: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 40
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            found = running.query("min(sum_over_time(up[1m])) > 3")
        except (httpx.HTTPError, json.JSONDecodeError):
            found = []  # It does not listen yet, or says in plain words that it is not ready.
        if found:
            return
        time.sleep(0.3)
