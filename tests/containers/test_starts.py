"""Every start command with every environment that a profile renders starts in the real images.

The values of a profile are as they stand, except for the images and for the store, which is an S3
server on the host. There is no Redis, no autoscaler and no hub of weights.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from chart.rendering import Chart, Object
from chart.test_profiles import PROFILES, Profile
from containers.kubelet import Node, Pod
from containers.kuberay import head_pod, head_service, worker_pod
from containers.podman import answers, wait_for
from containers.release import NAMESPACE, TIMEOUT_S, Release

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.ray]

_BROUGHT = {
    "shared": {"engines": "secret-of-engines"},
    "shared-token": {"auth_token": "token-of-ray"},
    "hub": {"token": "hf_token", "hf": "hf_token"},
}
"""Secrets that profiles expect in the namespace, besides those with credentials of the store."""

_AT_ONCE = 3

profiles = pytest.mark.parametrize(
    # `test_rendered.py` starts everything of kind-cpu.yaml.
    "profile",
    [files for files in PROFILES if files[-1].stem != "kind-cpu"],
    ids=lambda files: files[-1].stem,
)


class Starter:
    """Starts the pods of profiles, each command with its environment once.

    Equal commands of several profiles are started once, also if their credentials come from
    different Secrets or from a service account.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: set[str] = set()

    def is_new(self, pod: Object | None) -> bool:
        """Return whether a pod has a command and an environment that has not been started yet."""
        if pod is None:
            return False
        containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        key = json.dumps([_start_of(each) for each in containers])
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def start_all(self, release: Release) -> None:
        """Start whatever is new in a release, and wait until it works as far as it can."""
        starts: list[Callable[[Release], None]] = [self._start_api, self._start_job_pods]
        starts += [
            lambda release, component=component: self._start_cluster(release, component)
            for component in release.rendered.clusters()
        ]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for each in [threads.submit(start, release) for start in starts]:
                each.result()

    @contextmanager
    def _running(self, name: str, template: Object) -> Iterator[Pod]:
        """Start a pod, and remove it at the end, because Ray is never idle."""
        pod = self._node.start(name, template)
        try:
            yield pod
        finally:
            pod.remove()

    def _start_api(self, release: Release) -> None:
        """Start the API, and the pod of `helm test`, which needs it."""
        test = release.rendered.get("Pod", "-test")
        has_new_test = self.is_new(test)
        has_new_api = self.is_new(release.rendered.get("Deployment", "-api")["spec"]["template"])
        if not has_new_api and not has_new_test:
            return
        api = release.start_api()
        for probe in ("readinessProbe", "livenessProbe"):
            api.wait_for("api", probe, TIMEOUT_S)
        assert answers(f"http://{api.address}:8001/metrics")
        assert not answers(f"http://{api.address}:8000/metrics")
        if has_new_test:
            self._start_test(release, api)
        api.remove()

    def _start_test(self, release: Release, api: Pod) -> None:
        """Start the pod of `helm test`, and wait until it has done what it can."""
        template = release.rendered.get("Pod", "-test")
        with self._running("test", template) as pod:
            if len(template["spec"]["containers"][0]["args"]) == 1:
                assert pod.wait_until_ended("test", TIMEOUT_S) == 0, pod.logs
                return
            # Nobody trains the subject here.
            wait_for(
                lambda: "job submitted" in api.container("api").log,
                lambda: pod.logs + api.logs,
                TIMEOUT_S,
            )

    def _start_job_pods(self, release: Release) -> None:
        """Start the dispatcher and the Jobs."""
        for name, template in release.rendered.pods().items():
            if name.endswith("-dispatcher") and self.is_new(template):
                with self._running("dispatcher", template) as dispatcher:
                    dispatcher.wait_for("dispatcher", "livenessProbe", TIMEOUT_S)
                    assert answers(f"http://{dispatcher.address}:8001/metrics")
            elif name.startswith("Job ") and self.is_new(template):
                self._start_job(template)

    def _start_job(self, template: Object) -> None:
        (container,) = template["spec"]["containers"]
        with self._running(container["name"], template) as pod:
            if container["name"] == "fetch":
                begins = f"fetching {container['args'][0]}"
                wait_for(lambda: begins in pod.logs, lambda: pod.logs, TIMEOUT_S)
            else:
                assert pod.wait_until_ended(container["name"], TIMEOUT_S) == 0, pod.logs

    def _start_cluster(self, release: Release, component: str) -> None:
        """Start the head of a cluster, and a pod of each group that is new."""
        spec, serves = release.rendered.clusters()[component], component == "inference"
        name = release.name(component)
        head = head_pod(name, spec, NAMESPACE, serves=serves)
        workers = [
            worker_pod(name, spec, group, NAMESPACE, serves=serves)
            for group in spec.get("workerGroupSpecs", [])
        ]
        new_workers = [worker for worker in workers if self.is_new(worker)]
        if not self.is_new(head) and not new_workers:
            return
        with self._running(component, head) as started:
            self._node.hosts[head_service(name, NAMESPACE)] = started.address
            started.wait_for("ray-head", "readinessProbe", TIMEOUT_S)
            for number, worker in enumerate(new_workers):
                with self._running(f"{component}-{number}", worker) as pod:
                    # The readiness probe of engines' nodes asks for an engine, too.
                    pod.wait_for("ray-worker", "livenessProbe", TIMEOUT_S)
            if "initContainers" in head["spec"]:
                supervisor = started.container("supervisor")
                wait_for(
                    lambda: "connected to Ray" in supervisor.log, lambda: supervisor.log, TIMEOUT_S
                )
                started.wait_for("supervisor", "livenessProbe", TIMEOUT_S)


def _start_of(container: Object) -> list[Any]:
    """Return command and environment of a container, apart from where its secrets come from."""
    variables = ((each["name"], each.get("value")) for each in container.get("env", []))
    environment = sorted(each for each in variables if not each[0].startswith("AWS_"))
    return [environment, *(container.get(field) for field in ("command", "args", "envFrom"))]


@pytest.fixture(scope="module")
def starter(node: Node, values: dict[str, Any]) -> Starter:
    key, secret = node.secrets["dti-store"].values()
    node.secrets |= _BROUGHT
    node.secrets["store-credentials"] = {
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "id"), key),
        **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "key"), secret),
        "AWS_SESSION_TOKEN": "token",
    }
    node.role = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    maps = {"proxies": {"NO_PROXY": node.network.gateway}, "certificates": {"ca.pem": ""}}
    node.apply(
        [
            {"kind": "ConfigMap", "metadata": {"name": name}, "data": data}
            for name, data in maps.items()
        ]
    )
    return Starter(node)


@profiles
def test_all_commands_of_a_profile_start(
    node: Node, values: dict[str, Any], starter: Starter, chart: Chart, profile: Profile
) -> None:
    given = chart.render(None, *profile).serve_config()["applications"][0]["args"]["store"]
    store = given if given.startswith("file:") else "s3://dti/starts"
    starter.start_all(Release(node, chart, values | {"store": store}, profile))
