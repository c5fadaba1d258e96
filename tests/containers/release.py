"""A release of the chart, whose pods are on one node, and a tenant of the service."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml
from chart.rendering import ROOT, Chart
from chart.scraping import scrape_config
from containers.kubelet import Node, Pod
from containers.kuberay import (
    APPLICATIONS,
    DASHBOARD_PORT,
    METRICS_PORT,
    Object,
    head_pod,
    head_service,
    worker_pod,
)
from containers.podman import wait_for

from services.client.client import Client
from services.client.config import ServerConfig
from services.client.schemas import Item, Job
from services.client.uploader import content_of

NAME, NAMESPACE = "t", "prod"
PROFILE = ROOT / "deploy/values/kind-cpu.yaml"
TIMEOUT_S = 400
"""The longest wait for anything: two busy cores."""


class Release:
    """A release of the chart whose pods are on one node."""

    def __init__(
        self,
        node: Node,
        chart: Chart,
        values: Mapping[str, Any],
        profile: Sequence[Path] = (PROFILE,),
    ) -> None:
        self.node, self._chart, self._values, self._profile = node, chart, dict(values), profile
        self.rendered = self._render({})
        node.apply(self.rendered.objects)

    def _render(self, changes: Mapping[str, Any]) -> Any:
        return self._chart.render(self._values | dict(changes), *self._profile, release=NAME)

    def models(self) -> Object:
        """Return the models, by name."""
        text = self.rendered.get("ConfigMap", "-models")["data"]["models.json"]
        return json.loads(text)

    def name(self, component: str) -> str:
        """Return the name of a component's objects."""
        models = self.rendered.get("ConfigMap", "-models")["metadata"]["name"]
        return f"{models.removesuffix('-models')}-{component}"

    def check_store(self) -> None:
        """Run the Job that Helm runs before an install."""
        pod = self.node.start("check", self.rendered.get("Job", "-store-check")["spec"]["template"])
        assert pod.wait_until_ended("store-check") == 0, pod.logs

    def start_head(self, component: str) -> Pod:
        """Start the head of a cluster, and wait until it is ready."""
        spec = self.rendered.clusters()[component]
        serves = component == "inference"
        name = self.name(component)
        pod = head_pod(name, spec, NAMESPACE, serves=serves)
        host = f"{name}-serve-svc.{NAMESPACE}" if serves else head_service(name, NAMESPACE)
        started = self.node.start(component, pod, host)
        self.node.hosts[head_service(name, NAMESPACE)] = started.address
        started.wait_for("ray-head", "readinessProbe", TIMEOUT_S)
        return started

    def start_worker(self, component: str) -> Pod:
        """Start a pod of the only group of workers of a cluster, and wait until it is ready."""
        spec = self.rendered.clusters()[component]
        (group,) = spec["workerGroupSpecs"]
        serves = component == "inference"
        pod = worker_pod(self.name(component), spec, group, NAMESPACE, serves=serves)
        started = self.node.start(f"{component}-worker", pod)
        started.wait_for("ray-worker", "readinessProbe", TIMEOUT_S)
        return started

    def start_api(self) -> Pod:
        """Start a pod of the API, and wait until it is ready."""
        pod = self.rendered.get("Deployment", "-api")["spec"]["template"]
        (port,) = self.rendered.get("Service", "-api")["spec"]["ports"]
        host = f"{self.name('api')}.{NAMESPACE}"
        started = self.node.start("api", pod, host, {port["port"]: 8000})
        started.wait_for("api", "startupProbe", TIMEOUT_S)
        return started

    def scrapes(self, pods: Mapping[str, Pod]) -> list[Object]:
        """Return the scrape configurations of the rendered monitors, for pods by component."""
        rendered = self.rendered
        targets = {
            name: [f"{pods[name].address}:{port}"]
            for name, port in (
                ("api", 8001),
                ("dispatcher", 8001),
                ("inference", METRICS_PORT),
                ("training", METRICS_PORT),
            )
        }
        ray = rendered.get("PodMonitor", "-ray")
        return [
            scrape_config(rendered.get("ServiceMonitor"), targets["api"]),
            scrape_config(rendered.get("PodMonitor", "-dispatcher"), targets["dispatcher"]),
            *(
                # The operator adds these labels to those of the template.
                scrape_config(
                    ray,
                    targets[name],
                    rendered.pods()[f"{name} head"]["metadata"]["labels"]
                    | {"ray.io/cluster": self.name(name), "ray.io/node-type": "head"},
                )
                for name in ("inference", "training")
            ),
        ]

    def start_dispatcher(self) -> Pod:
        """Start a pod of the dispatcher."""
        pod = self.rendered.get("Deployment", "-dispatcher")["spec"]["template"]
        return self.node.start("dispatcher", pod)

    def change_models(self, models: Object) -> None:
        """Apply other models, apart from the pods that Helm rolls.

        The Secrets stay, because Helm reads them from a real cluster.
        """
        self.rendered = self._render({"models": models})
        self.node.apply([each for each in self.rendered.objects if each["kind"] == "ConfigMap"])

    def put_serve_config(self, inference: Pod) -> None:
        """Send the Serve config as the operator does."""
        config = self.rendered.get("RayService")["spec"]["serveConfigV2"]
        answer = self._applications(inference, "PUT", json=yaml.safe_load(config))
        assert answer.status_code == 200, answer.text

    def wait_for_engines(self, inference: Pod, number: int = 1) -> set[str]:
        """Wait until so many engines run, and return the ids of their actors."""
        wait_for(lambda: len(self._engines(inference)) == number, lambda: inference.logs, TIMEOUT_S)
        return self._engines(inference)

    def _engines(self, inference: Pod) -> set[str]:
        applications = self._applications(inference, "GET").json()["applications"].values()
        assert not any(each["status"] == "DEPLOY_FAILED" for each in applications), applications
        replicas = [
            replica
            for application in applications
            for deployment in application["deployments"].values()
            for replica in deployment["replicas"]
        ]
        return {each["actor_id"] for each in replicas if each["state"] == "RUNNING"}

    def _applications(self, inference: Pod, method: str, **options: Any) -> httpx.Response:
        token = self.node.secrets[self.name("ray")]["auth_token"]
        url = f"http://{inference.address}:{DASHBOARD_PORT}{APPLICATIONS}"
        headers = {"x-ray-authorization": f"Bearer {token}"}
        return httpx.request(method, url, headers=headers, timeout=60, **options)


class Tenant:
    """A client of the service with a key of its own."""

    def __init__(self, api: Pod, bundles: Mapping[str, bytes]) -> None:
        key = api.container("api").execute("dti", "keys", "create", "acme").split()[-1]
        self._access = ServerConfig(f"http://{api.address}:8000", key)
        self._client = Client.at(self._access)
        self._bundles = bundles

    def submit(self, *, steps: int, key: str) -> str:
        """Submit a job of one subject, and return its id."""
        name, data = next(iter(self._bundles.items()))
        content = content_of(data)
        self._client.upload([content])
        order = {
            "subjects": [{"id": name, "bundle": content.sha256}],
            "overrides": {"steps": steps},
            "validation_images": 0,
        }
        return self._client.submit(order, key).job

    def submit_images(self, *, prompts: list[str], key: str) -> str:
        """Submit a job of one image for each prompt, without a token, and return its id."""
        order = {"prompts": prompts, "seeds": {"count": 1}, "steps": 4}
        return self._client.submit_images(order, key).job

    def generate(self, *, steps: int) -> bool:
        """Generate one image, and return whether it has come."""
        url, key = self._access.server, self._access.key
        answer = httpx.post(
            f"{url}/v1/images/generations",
            json={"prompt": "a red dog", "seed": 1, "steps": steps},
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
        )
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["data"])

    def job(self, job: str) -> Job:
        return self._client.job(job)

    def item(self, job: str) -> Item:
        """Return the only item of a job."""
        (item,) = self._client.items(job)
        return item

    def cancel(self, job: str) -> None:
        self._client.cancel(job)

    def wait_for_steps(self, job: str, steps: int, pod: Pod) -> None:
        """Wait until the item of a job has been trained for so many steps."""

        def has_progressed() -> bool:
            progress = self.item(job).progress
            return progress is not None and progress.step >= steps

        wait_for(has_progressed, lambda: f"{self.item(job)}\n{pod.logs}", TIMEOUT_S)

    def close(self) -> None:
        self._client.__exit__(None, None, None)


class Load:
    """Callers that request images, each as soon as it has the image before, while it is entered."""

    def __init__(self, api: Pod, callers: int = 2) -> None:
        self._key = api.container("api").execute("dti", "keys", "create", "load").split()[-1]
        self.api = api
        """The pod that new requests go to."""
        self.images = 0
        self.failures: list[str] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._request) for _ in range(callers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def wait_for_images(self, number: int) -> None:
        """Wait for so many more images."""
        wanted = self.images + number
        wait_for(lambda: self.images >= wanted, lambda: "\n".join(self.failures), TIMEOUT_S)

    def _request(self) -> None:
        while not self._stopped.is_set():
            try:
                answer = httpx.post(
                    f"http://{self.api.address}:8000/v1/images/generations",
                    json={"prompt": "a red dog", "seed": self.images, "steps": 6},
                    headers={"Authorization": f"Bearer {self._key}"},
                    timeout=TIMEOUT_S,
                )
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
            else:
                self.images += answer.status_code == 200
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code}: {answer.text[:500]}")


def trained_by(pod: Pod, container: str) -> set[int]:
    """Return the ids of the processes of training workers in a container."""
    script = "for p in /proc/[0-9]*; do echo ${p#/proc/} $(tr '\\0' ' ' < $p/cmdline); done"
    found = pod.container(container).execute("sh", "-c", script)
    lines = [line.split(maxsplit=1) for line in found.splitlines()]
    return {int(line[0]) for line in lines if line[1:] and line[1].startswith("ray::TrainingActor")}


def image_values(images: Mapping[str, str]) -> Object:
    """Return the values that have the chart take images, which are given by target."""
    return {
        target: {**dict(zip(("repository", "tag"), name.rsplit(":", 1), strict=True)), "digest": ""}
        for target, name in images.items()
    }
