"""Nodes of the training cluster that end: SIGTERM to their containers, as a kubelet sends it."""

from collections.abc import Iterator

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
