"""Nodes that end: SIGTERM to their containers, as a kubelet sends it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from chart.rendering import Chart
from containers.kubelet import Node, Pod
from containers.podman import wait_for
from containers.release import TIMEOUT_S, Release, Tenant

pytestmark = [pytest.mark.slow, pytest.mark.container, pytest.mark.ray]

TRAINING = {
    "head": {"cpus": 0},
    "workerGroups": {
        "cpu": {
            "minReplicas": 1,
            "sharedMemory": "256Mi",
            "resources": {"requests": {"cpu": 1, "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        }
    },
}


@pytest.fixture(scope="module")
def release(node: Node, chart: Chart, values: dict[str, object]) -> Release:
    return Release(node, chart, values | {"training": TRAINING})


@pytest.fixture(scope="module")
def training(release: Release) -> Pod:
    return release.start_head("training")


@pytest.fixture(scope="module")
def tenant(release: Release, bundles: dict[str, bytes]) -> Iterator[Tenant]:
    tenant = Tenant(release.start_api(), bundles)
    yield tenant
    tenant.close()


def test_an_idle_node_ends_within_ten_seconds(release: Release, training: Pod) -> None:
    node = release.start_worker("training")
    seconds = node.terminate()
    assert node.container("ray-worker").state["ExitCode"] != 137, node.logs
    assert seconds < 10


def test_a_node_that_trains_saves_its_work_and_ends_before_its_grace_period(
    release: Release, training: Pod, tenant: Tenant
) -> None:
    node = release.start_worker("training")
    job = tenant.submit(steps=60, key="drained")
    tenant.wait_for_steps(job, 5, training)
    seconds = node.terminate()
    assert node.container("ray-worker").state["ExitCode"] != 137, node.logs
    assert seconds < node.spec["terminationGracePeriodSeconds"]
    assert tenant.item(job).state != "succeeded", "the job had ended before the node did"

    other = release.start_worker("training")
    wait_for(lambda: tenant.job(job).ended, lambda: other.logs + training.logs, TIMEOUT_S)
    item = tenant.item(job)
    assert item.state == "succeeded", item.reason
    assert item.report
    assert item.report["resumed_at"] > 0, "it began from nothing"


ENGINES = {
    "models": {"miniature": {"generation": {"labels": {"pool": "engines"}}}},
    "inference": {
        "workerGroups": {
            "cpu": {
                "minReplicas": 1,
                "labels": {"pool": "engines"},
                "sharedMemory": "256Mi",
                "resources": {"requests": {"cpu": 1, "memory": "3Gi"}, "limits": {"memory": "3Gi"}},
            }
        },
    },
}


def test_a_node_that_generates_finishes_its_image_and_ends_before_its_grace_period(
    node: Node, chart: Chart, values: dict[str, object], bundles: dict[str, bytes]
) -> None:
    release = Release(node, chart, values | ENGINES)
    inference = release.start_head("inference")
    release.put_serve_config(inference)
    # Its readiness probe asks the proxy, which comes with the node's first engine.
    worker = release.start_worker("inference")
    release.wait_for_engines(inference)
    api = release.start_api()
    tenant = Tenant(api, bundles)
    tenant.generate(steps=2)
    with ThreadPoolExecutor(1) as threads:
        image = threads.submit(tenant.generate, steps=150)
        time.sleep(2)
        assert not image.done()
        seconds = worker.terminate()
        assert image.result(60)
    tenant.close()
    assert worker.container("ray-worker").state["ExitCode"] != 137, worker.logs
    assert seconds < worker.spec["terminationGracePeriodSeconds"]
