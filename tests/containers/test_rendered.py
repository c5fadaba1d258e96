"""The rendered chart in real containers, as KubeRay and a kubelet start them: no root, read-only.

A pod has a network namespace of its own; the store is an S3 server on the host.
"""

import json
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from chart.rendering import Chart
from containers.kubelet import Node, Pod
from containers.kuberay import APPLICATIONS, DASHBOARD_PORT, METRICS_PORT, SERVE_PORT
from containers.podman import answers, wait_for
from containers.release import TIMEOUT_S, Release, Tenant, trained_by

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.ray]


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


@pytest.fixture(scope="module")
def service(node: Node, chart: Chart, values: dict[str, object]) -> Service:
    # Half a core for each worker, so that there is room for a second one.
    return Service(node, chart, values | {"models": {"miniature": {"cpus": 0.5}}})


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


def test_metrics_are_served_where_the_monitors_scrape_them(service: Service) -> None:
    def metrics(pod: Pod, port: int) -> str:
        return httpx.get(f"http://{pod.address}:{port}/metrics", timeout=30).text

    assert "dti_http_requests_total" in metrics(service.api, 8001)
    assert "dti_" in metrics(service.dispatcher, 8001)
    for pod in (service.inference, service.training):
        page = partial(metrics, pod, METRICS_PORT)
        wait_for(lambda page=page: "ray_dti_" in page(), page, 60)


def test_the_dispatcher_has_the_engines_generate_the_images_of_a_job(
    service: Service, tenant: Tenant
) -> None:
    job = tenant.submit_images(prompts=["a red dog", "a blue car"], key="images")
    wait_for(lambda: tenant.job(job).ended, lambda: service.dispatcher.logs, TIMEOUT_S)
    assert tenant.job(job).state == "succeeded"


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
    job = tenant.submit(steps=5000, key="limits")
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
