"""The rendered chart in real containers, as KubeRay and a kubelet start them: no root, read-only.

A pod has a network namespace of its own; the store is an S3 server on the host.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import boto3
import httpx
import pytest
import yaml
from chart.rendering import ROOT, Chart, Rendered
from containers.kubelet import Node, Pod
from containers.kuberay import APPLICATIONS, DASHBOARD_PORT, METRICS_PORT, SERVE_PORT, head_pod
from containers.podman import Image, answers, wait_for
from moto.server import ThreadedMotoServer

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.ray]

NAMESPACE, RELEASE = "prod", "t"
PROFILE = ROOT / "deploy/values/kind-cpu.yaml"
TIMEOUT_S = 300
"""The longest wait for anything: two busy cores."""


class Service:
    """The chart's pods on a node."""

    def __init__(self, node: Node, chart: Chart, values: dict[str, Any]) -> None:
        self.node, self._chart, self._values = node, chart, values
        self.rendered = self.render({})
        node.apply(self.rendered.objects)

    def render(self, changes: dict[str, Any]) -> Rendered:
        return self._chart.render(self._values | changes, PROFILE, release=RELEASE)

    def name(self, component: str) -> str:
        return f"{self.rendered.get('ConfigMap', '-models')['metadata']['name'][:-7]}-{component}"

    def start(self) -> None:
        self.inference = self._start_head("inference", f"{self.name('inference')}-serve-svc")
        self.training = self._start_head("training")
        self.start_deployments()

    def _start_head(self, component: str, service: str = "") -> Pod:
        spec = self.rendered.clusters()[component]
        serves = component == "inference"
        pod = head_pod(self.name(component), spec, NAMESPACE, serves=serves)
        return self.node.start(component, pod, service and f"{service}.{NAMESPACE}")

    def start_deployments(self) -> None:
        api = self.rendered.get("Deployment", "-api")["spec"]["template"]
        host = f"{self.name('api')}.{NAMESPACE}"
        self.api = self.node.start("api", api, host, {80: 8000})
        dispatcher = self.rendered.get("Deployment", "-dispatcher")["spec"]["template"]
        self.dispatcher = self.node.start("dispatcher", dispatcher)

    def put_serve_config(self) -> httpx.Response:
        """Send the Serve config as the operator does."""
        config = self.rendered.get("RayService")["spec"]["serveConfigV2"]
        return self.dashboard("PUT", json=yaml.safe_load(config))

    def dashboard(self, method: str, **options: Any) -> httpx.Response:
        token = self.node.secrets[f"{self.name('ray')}"]["auth_token"]
        url = f"http://{self.inference.address}:{DASHBOARD_PORT}{APPLICATIONS}"
        headers = {"x-ray-authorization": f"Bearer {token}"}
        return httpx.request(method, url, headers=headers, timeout=60, **options)

    def engines_run(self) -> bool:
        applications = self.dashboard("GET").json()["applications"]
        states = {name: each["status"] for name, each in applications.items()}
        assert "DEPLOY_FAILED" not in states.values(), applications
        return bool(states) and set(states.values()) == {"RUNNING"}


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, api_image: Image, ray_image: Image
) -> Iterator[Node]:
    images = {api_image.name: api_image.id, ray_image.name: ray_image.id}
    with Node(tmp_path_factory.mktemp("node"), images) as node:
        yield node


@pytest.fixture(scope="module")
def s3(node: Node) -> Iterator[str]:
    """An S3 server that pods reach, with a bucket."""
    server = ThreadedMotoServer(ip_address=node.network.gateway, port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    key = {"aws_access_key_id": "moto", "aws_secret_access_key": "not-a-secret"}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **key).create_bucket(
        Bucket="dti"
    )
    node.secrets["dti-store"] = {name.upper(): value for name, value in key.items()}
    yield endpoint
    server.stop()


@pytest.fixture(scope="module")
def service(
    node: Node,
    s3: str,
    chart: Chart,
    api_image: Image,
    ray_image: Image,
) -> Service:
    """The service, whose engines run and whose API is ready."""
    images = {"api": api_image.name, "ray": ray_image.name}
    values = {
        "s3": {"settings": {"endpoint": s3}},
        "image": {
            target: dict(zip(("repository", "tag"), name.rsplit(":", 1), strict=True))
            for target, name in images.items()
        },
    }
    service = Service(node, chart, values)
    check = service.rendered.get("Job", "-store-check")["spec"]["template"]
    checking = node.start("check", check)
    assert checking.wait_until_ended("store-check") == 0, checking.logs
    service.start()
    service.inference.wait_for("ray-head", "readinessProbe", TIMEOUT_S)
    service.training.wait_for("ray-head", "readinessProbe", TIMEOUT_S)
    answer = service.put_serve_config()
    assert answer.status_code == 200, answer.text
    wait_for(service.engines_run, lambda: service.inference.logs, TIMEOUT_S)
    service.api.wait_for("api", "startupProbe", TIMEOUT_S)
    return service


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
    pod = service.rendered.get("Pod", "-test")
    test = service.node.start("test", pod)
    assert test.wait_until_ended("test", 600) == 0, test.logs + service.training.logs
    assert "generated" in test.logs


def test_metrics_are_served_where_the_monitors_scrape_them(service: Service) -> None:
    def metrics(address: str, port: int) -> str:
        return httpx.get(f"http://{address}:{port}/metrics", timeout=30).text

    assert "dti_http_requests_total" in metrics(service.api.address, 8000)
    assert "dti_" in metrics(service.dispatcher.address, 8001)
    for address in (service.inference.address, service.training.address):
        page = partial(metrics, address, METRICS_PORT)
        wait_for(lambda page=page: "ray_dti_" in page(), page, 60)
