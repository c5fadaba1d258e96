"""The rendered chart in real containers, as KubeRay and a kubelet start them: no root, read-only.

A pod has a network namespace of its own; the store is an S3 server on the host.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from chart.rendering import Chart
from chart.scraping import (
    SELECTOR,
    Prometheus,
    panels,
    prometheus,
    prometheus_program,
    query_of,
)
from containers.kubelet import Node
from containers.kuberay import APPLICATIONS, DASHBOARD_PORT, SERVE_PORT
from containers.podman import answers, wait_for
from containers.release import TIMEOUT_S, Load, Release, Tenant, trained_by

from services.local.service import free_port

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.ray]


COMPONENTS = ("api", "dispatcher", "inference", "training")

WITHOUT_SERIES = {
    # Counters of troubles and limits, which begin with the first event.
    "dti_claim_conflicts_total",
    "dti_engine_rejections_total",
    "dti_heartbeat_errors_total",
    "dti_lease_losses_total",
    "dti_rate_limited_total",
    "dti_store_errors_total",
    "dti_subject_rejections_total",
    "dti_subjects_preempted_total",
    "dti_upload_rejections_total",
    "dti_webhook_deliveries_total",
    "dti_worker_start_failures_total",
    # There is no GPU.
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
}
"""Series that this service has no reason to have; pages with all of them are in `tests/chart`."""


class Service:
    """All pods of the chart, whose engines run and whose API is ready."""

    def __init__(self, node: Node, chart: Chart, values: dict[str, object]) -> None:
        self.release = release = Release(node, chart, values)
        release.check_store()
        self.inference = release.start_head("inference")
        self.training = release.start_head("training")
        release.put_serve_config(self.inference)
        self.api = release.start_api()
        self.dispatcher = release.start_dispatcher()
        self.engines = release.wait_for_engines(self.inference)

    def change_model(self, load: Load, **generation: int) -> None:
        """Change how the model generates, as an upgrade does while requests come."""
        model = self.release.models()["miniature"]
        changed = model | {"generation": model["generation"] | generation}
        self.release.change_models({"miniature": changed})
        self.release.put_serve_config(self.inference)
        ending, self.api = self.api, self.release.start_api()
        load.api = self.api
        ending.terminate()
        assert ending.container("api").state["ExitCode"] == 0, ending.logs


@pytest.fixture(scope="module")
def service(node: Node, chart: Chart, values: dict[str, object]) -> Service:
    # Half a core for each worker, so that there is room for a second one.
    more = {
        "models": {
            "miniature": {
                "cpus": 0.5,
                "recipe": "miniature-fast",
                "limits": {"max_training_steps": 10_000},
            }
        },
        # Engines that are replaced stay until their successors run.
        "inference": {"head": {"resources": {"limits": {"memory": "6Gi"}}}},
        "monitoring": {
            name: {"enabled": True} for name in ("podMonitor", "serviceMonitor", "rules")
        },
    }
    return Service(node, chart, values | more)


@pytest.fixture
def tenant(service: Service, bundles: dict[str, bytes]) -> Iterator[Tenant]:
    tenant = Tenant(service.api, bundles)
    yield tenant
    tenant.close()


def test_probes_of_all_pods_succeed(service: Service) -> None:
    for pod, container in (
        (service.inference, "ray-head"),
        (service.training, "ray-head"),
        (service.training, "supervisor"),
        (service.api, "api"),
        (service.dispatcher, "dispatcher"),
    ):
        pod.wait_for(container, "livenessProbe", 60)
    assert service.api.probe("api", "readinessProbe")
    # The operator asks the proxy of the head before it adds the head to the Serve service.
    assert answers(f"http://{service.inference.address}:{SERVE_PORT}/-/healthz")


def test_ray_accepts_nothing_without_the_token(service: Service) -> None:
    url = f"http://{service.inference.address}:{DASHBOARD_PORT}{APPLICATIONS}"
    assert httpx.get(url).status_code == 401
    assert httpx.put(url, json={}).status_code == 401


def test_helm_test_learns_a_subject_and_generates_an_image(service: Service) -> None:
    test = service.release.node.start("test", service.release.rendered.get("Pod", "-test"))
    assert test.wait_until_ended("test", 600) == 0, test.logs + service.training.logs
    assert "generated" in test.logs


def test_the_dispatcher_has_the_engines_generate_the_images_of_a_job(
    service: Service, tenant: Tenant
) -> None:
    job = tenant.submit_images(prompts=["a red dog", "a blue car"], key="images")
    wait_for(lambda: tenant.job(job).ended, lambda: service.dispatcher.logs, TIMEOUT_S)
    assert tenant.job(job).state == "succeeded"


@pytest.fixture
def prometheus_of_service(service: Service, tenant: Tenant, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes all pods as the rendered monitors say."""
    # The series of an idle worker end with it after a minute.
    job = tenant.submit(steps=2, key="scraped")
    wait_for(lambda: tenant.job(job).ended, lambda: service.training.logs, TIMEOUT_S)
    pods = {name: getattr(service, name) for name in COMPONENTS}
    rules = service.release.rendered.get("PrometheusRule")["spec"]
    scrapes = service.release.scrapes(pods)
    with prometheus(prometheus_program(), tmp_path, scrapes, rules, free_port()) as running:
        # Ray exports what a process counts some ten seconds later.
        found = partial(running.query, 'dti_subjects_total{outcome="succeeded"}')
        wait_for(lambda: bool(found()), lambda: service.training.logs, 60)
        yield running


def test_prometheus_answers_every_query_of_rules_and_dashboards_on_a_scrape_of_all_pods(
    service: Service, prometheus_of_service: Prometheus
) -> None:
    running = prometheus_of_service
    up = {(each["metric"]["component"], each["value"][1]) for each in running.query("up")}
    assert up == {(name, "1") for name in COMPONENTS}
    groups = service.release.rendered.get("PrometheusRule")["spec"]["groups"]
    queries = [rule["expr"] for group in groups for rule in group["rules"]]
    queries += [query_of(target) for _, target in panels()]
    assert len(queries) > 60
    for query in queries:
        running.query(query)
    broken = [
        (rule["name"], rule.get("lastError"))
        for group in running.ask("rules")["groups"]
        for rule in group["rules"]
        if rule["health"] == "err"
    ]
    assert broken == []
    names = {
        selector.partition("{")[0] for query in queries for selector in SELECTOR.findall(query)
    }
    # What is recorded needs minutes of scrapes.
    scraped = {name for name in names if ":" not in name}
    assert {name for name in scraped if not running.query(name)} <= WITHOUT_SERIES


@pytest.mark.parametrize(("pod", "process"), [("inference", "engine"), ("training", "worker")])
def test_lines_of_engines_and_workers_reach_the_output_of_the_container(
    service: Service, tenant: Tenant, pod: str, process: str
) -> None:
    if process == "worker":
        job = tenant.submit(steps=2, key="lines")
        wait_for(lambda: tenant.job(job).ended, lambda: service.training.logs, TIMEOUT_S)
    log = getattr(service, pod).container("ray-head").log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"time"')]
    events = [line["event"] for line in lines if line["process"] == process]
    assert "loading model" in events


def test_higher_limits_of_a_model_replace_no_engine_and_no_worker(
    service: Service, tenant: Tenant
) -> None:
    release = service.release
    job = tenant.submit(steps=10_000, key="limits")
    tenant.wait_for_steps(job, 5, service.training)
    workers = trained_by(service.training, "ray-head")
    assert len(workers) == 1

    model = release.models()["miniature"]
    generation = model["generation"] | {"min_engines": 2, "max_engines": 3}
    release.change_models({"miniature": model | {"max_workers": 2, "generation": generation}})
    release.put_serve_config(service.inference)
    engines = release.wait_for_engines(service.inference, 2)
    # The supervisor ends by itself, and the kubelet starts it again.
    supervisor = service.training.container("supervisor")
    wait_for(
        lambda: supervisor.log.splitlines().count("ready") == 2, lambda: supervisor.log, TIMEOUT_S
    )
    service.training.wait_for("supervisor", "livenessProbe", TIMEOUT_S)

    assert service.engines < engines
    assert trained_by(service.training, "ray-head") == workers
    step = tenant.item(job).progress
    assert step
    tenant.wait_for_steps(job, step.step + 5, service.training)
    tenant.cancel(job)


def test_no_request_fails_while_limits_and_then_a_model_change_with_two_engines(
    service: Service,
) -> None:
    with Load(service.api) as load:
        service.change_model(load, min_engines=2, max_engines=2)
        before = service.release.wait_for_engines(service.inference, 2)
        load.wait_for_images(4)
        service.change_model(load, max_engines=3)
        load.wait_for_images(4)
        assert service.release.wait_for_engines(service.inference, 2) == before
        service.change_model(load, batch_size=3)
        wait_for(
            lambda: before.isdisjoint(service.release.wait_for_engines(service.inference, 2)),
            lambda: service.inference.logs,
            TIMEOUT_S,
        )
        load.wait_for_images(4)
    assert load.failures == []
