"""Every query of alerts and dashboards is answered by a real Prometheus, which scrapes as rendered.

It scrapes a real API process, and pages with all metrics of the table, in the form in which the
processes and Ray export them.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from chart.rendering import CHART, Chart, Rendered
from chart.scraping import (
    RECORDED,
    SELECTOR,
    Prometheus,
    page,
    panels,
    prometheus,
    prometheus_program,
    query_of,
    ray_page,
    scrape_config,
    served,
)

from services.local.service import free_port

pytestmark = pytest.mark.slow

VALUES = {
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
    }
}


PANELS = panels()


@pytest.fixture(scope="module")
def rendered(chart: Chart) -> Rendered:
    return chart.render(VALUES)


@pytest.fixture(scope="module")
def api_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port for metrics of a real API process, which has answered one request."""
    port, metrics_port = free_port(), free_port()
    store = tmp_path_factory.mktemp("store")
    command = [sys.executable, "-m", "services.api", f"--store={store}", f"--port={port}"]
    command.append(f"--metrics-port={metrics_port}")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_until_refused(f"http://127.0.0.1:{port}/v1/tokens")
        yield metrics_port
    finally:
        process.terminate()
        process.wait(20)


def _local(port: int) -> str:
    return f"127.0.0.1:{port}"


def _wait_until_refused(url: str) -> None:
    end = time.monotonic() + 40
    while True:
        try:
            assert httpx.get(url).status_code == 401
            return
        except httpx.TransportError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def running(
    rendered: Rendered, api_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    binary = prometheus_program()
    api = rendered.get("ServiceMonitor")
    dispatcher = rendered.get("PodMonitor", "-dispatcher")
    ray = rendered.get("PodMonitor", "-ray")
    # KubeRay adds these labels to those of the template.
    added = {"ray.io/cluster": "t-dti-training-x7k2p", "ray.io/node-type": "head"}
    labels = rendered.pods()["training head"]["metadata"]["labels"] | added
    with (
        served(page("api")) as full_api,
        served(page("dispatcher")) as dispatcher_port,
        served(ray_page()) as ray_port,
        prometheus(
            binary,
            tmp_path_factory.mktemp("prometheus"),
            [
                scrape_config(api, [_local(api_port), _local(full_api)]),
                scrape_config(dispatcher, [_local(dispatcher_port)]),
                scrape_config(ray, [_local(ray_port)], labels),
            ],
            rendered.get("PrometheusRule")["spec"],
            free_port(),
        ) as running,
    ):
        yield running


def test_all_targets_carry_their_release_and_component(running: Prometheus) -> None:
    targets = [each["metric"] for each in running.query("up == 1")]
    assert sorted((each["release"], each["component"], each["namespace"]) for each in targets) == [
        ("t", "api", "prod"),
        ("t", "api", "prod"),
        ("t", "dispatcher", "prod"),
        ("t", "training", "prod"),
    ]


def test_series_of_ray_pods_name_their_cluster_and_the_kind_of_node(running: Prometheus) -> None:
    (target,) = running.query('up{component="training"}')
    assert target["metric"]["ray_io_cluster"] == "t-dti-training-x7k2p"
    assert target["metric"]["ray_io_node_type"] == "head"


def test_metrics_on_ray_have_the_names_of_the_table(running: Prometheus) -> None:
    (steps,) = running.query("dti_training_step_seconds_count")
    assert steps["metric"]["component"] == "training"
    assert running.query('{__name__=~"ray_dti_.+"}') == []


def test_no_series_of_a_ray_node_is_lost(running: Prometheus) -> None:
    # Some of them differ in the label Component alone.
    recorded = re.findall(r"^ray_component_rss_mb\{", RECORDED.read_text(), re.M)
    assert len(running.query("ray_component_rss_mb")) == len(recorded) > 3


def test_generated_series_have_the_labels_of_recorded_ones() -> None:
    recorded, generated = (
        {
            (name, *sorted(set(re.findall(r"(\w+)=", labels)) - _LABELS_OF_OPENTELEMETRY))
            for name, labels in re.findall(r"^(ray_dti_\w+)\{(.*)\}", text, re.M)
        }
        for text in (RECORDED.read_text(), ray_page().removeprefix(RECORDED.read_text()))
    )
    assert recorded
    assert recorded <= generated


_LABELS_OF_OPENTELEMETRY = {f"otel_scope_{name}" for name in ("name", "schema_url", "version")}


def test_prometheus_evaluates_every_rule(running: Prometheus) -> None:
    rules = [rule for group in running.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 15
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_every_selector_of_the_rules_finds_series_that_have_the_labels(
    rendered: Rendered, running: Prometheus
) -> None:
    wrong: list[str] = []
    for group in rendered.get("PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            by = {
                label
                for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"])
                for label in re.split(r",\s*", labels)
            }
            for selector in SELECTOR.findall(rule["expr"]):
                found = [each["metric"] for each in running.query(selector)]
                if not found or any(not each.get(label) for each in found for label in by):
                    wrong.append(f"{rule.get('alert', rule.get('record'))}: {selector} {by}")
    assert wrong == []


@pytest.mark.parametrize(
    "target", [t for _, t in PANELS], ids=[f"{n} {t['refId']}" for n, t in PANELS]
)
def test_a_panel_shows_series_with_the_labels_of_its_legend(
    running: Prometheus, target: dict[str, Any]
) -> None:
    expression = query_of(target)
    found = [each["metric"] for each in running.query(expression)]
    assert found, expression
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(each.get(label) for each in found), (label, found)


def test_the_variables_of_a_dashboard_list_namespaces_and_releases(running: Prometheus) -> None:
    for path in CHART.glob("files/dashboards/*.json"):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                given = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
                assert given
                series = running.query(given[1].replace("$namespace", ".*"))
                values = {each["metric"][given[2]] for each in series}
                assert values == {{"namespace": "prod", "release": "t"}[variable["name"]]}
