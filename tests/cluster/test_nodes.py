"""Workers on nodes that come and go: a node says that it goes, and one is made where none is."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dti_engine.recipes import miniature
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.models import MINIATURE, ServedModel
from services.contracts.training import TrainingItem, TrainingJobSpec, batch_of
from services.ledger import uploads
from services.ledger.ledger import Ledger
from services.ledger.queries import list_attempts, list_items, view_job
from services.ledger.submissions import submit
from services.ledger.workers import ProgressReader
from services.settings import LedgerSettings, SupervisorTimeouts
from services.storage.directory import DirectoryStore

from .conftest import SECONDS

pytestmark = pytest.mark.ray

_SMALL = 80_000_000  # bytes of Ray's object store, which nothing of ours goes through

_AUTOSCALED = {
    "cluster_name": "tests",
    "provider": {
        "type": "fake_multinode",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "max_workers": 1,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 1, "GPU": 1, "object_store_memory": _SMALL},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 1,
        },
    },
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{f"{which}_commands": [] for which in ("initialization", "setup", "head_setup")},
    **{f"{which}_commands": [] for which in ("worker_setup", "head_start_ray")},
    **{name: [] for name in ("worker_start_ray_commands", "cluster_synced_files")},
    **{name: [] for name in ("rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}
"""One node without anything, and up to one with a GPU, as the fake provider of Ray's tests has it:
its nodes are processes of this machine.
"""


@contextmanager
def _cluster(num_cpus: int) -> Iterator[Any]:
    """Yield a Ray cluster whose head node has so many cores; a test may add nodes."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": _SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of Ray's own, by which its processes are found."""
    folder = Path(tempfile.mkdtemp(prefix="dti-"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    subprocess.run(["pkill", "-9", "-f", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(
        DirectoryStore(tmp_path / "store"), LedgerSettings(lease_s=30, poll_interval_s=0.2)
    )


def submit_one(
    ledger: Ledger, bundles: dict[str, bytes], steps: int, pool: str = "miniature"
) -> str:
    import hashlib

    data = next(iter(bundles.values()))
    sha256 = hashlib.sha256(data).hexdigest()
    uploads.write(ledger.store, "acme", sha256, io.BytesIO(data))
    config = miniature().changed(steps=steps)
    order = TrainingJobSpec(
        model="miniature",
        recipe="miniature",
        config=config.model_dump(mode="json"),
        validation_images=0,
    )
    request = JobRequest(
        pool=pool,
        batch=batch_of(config),
        items=(JobItem(name="one", work=TrainingItem(bundle=sha256).model_dump(mode="json")),),
        shared=order.model_dump(mode="json"),
    )
    return submit(ledger, "acme", f"for {pool}", request).job


def pool_on(
    ledger: Ledger, silence: float = 600, names: Sequence[str] = ("miniature",), **changes: object
) -> Any:
    from services.training.pool import WorkerSpec
    from services.training.ray_pool import RayPool

    model = ServedModel.model_validate(MINIATURE["miniature"].model_dump() | changes)
    settings = ledger.settings
    plans = {
        name: WorkerSpec(
            store=str(ledger.store.url),
            pool=name,
            model=model.for_worker(),
            lease_s=settings.lease_s,
            poll_interval_s=settings.poll_interval_s,
            threads=1,
        )
        for name in names
    }
    return RayPool(plans, silence)


def wait_for(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)
    return found


def test_a_node_that_is_drained_gives_back_what_it_has(
    environment: Path, ledger: Ledger, bundles: dict[str, bytes]
) -> None:
    """The items are released long before a lease expires, with their latest checkpoints."""
    import ray

    from services.training.ray_pool import connect

    with _cluster(0) as cluster:
        cluster.add_node(num_cpus=1, object_store_memory=_SMALL)
        connect(cluster.address, ledger.store.url)
        pool = pool_on(ledger)
        job = submit_one(ledger, bundles, steps=80)
        pool.start("miniature")
        wait_for(
            lambda: any(
                int(str(progress.get("step", 0))) >= 5
                for progress in ProgressReader(ledger, 0).read("acme", job).values()
            )
        )
        (node,) = [each for each in ray.nodes() if each["Resources"].get("CPU") and each["Alive"]]
        began = time.monotonic()
        subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
                *("--address", cluster.address, "--node-id", node["NodeID"]),
                *("--reason", "DRAIN_NODE_REASON_PREEMPTION"),
                *("--reason-message", "a spot instance is taken away"),
                *("--deadline-remaining-seconds", "120"),
            ],
            check=True,
            capture_output=True,
        )
        wait_for(lambda: list_attempts(ledger, "acme", job, 0)[0].cause)
        assert time.monotonic() - began < ledger.settings.lease_s
        assert list_attempts(ledger, "acme", job, 0)[0].cause == "released"
        wait_for(lambda: not pool.workers())

        cluster.add_node(num_cpus=1, object_store_memory=_SMALL)
        pool.start("miniature")
        wait_for(lambda: view_job(ledger, "acme", job).state.ended)
        (item,) = list_items(ledger, "acme", job).items
        assert item.report
        assert int(str(item.report["resumed_at"])) >= 5
        pool.drain_all(timeout_s=60)
        assert not pool.workers()


def test_workers_run_on_the_nodes_that_their_labels_name(environment: Path, ledger: Ledger) -> None:
    import ray
    from ray._private import state

    from services.training.ray_pool import connect

    with _cluster(0) as cluster:
        for kind in ("small", "big"):
            cluster.add_node(num_cpus=1, labels={"kind": kind}, object_store_memory=_SMALL)
        connect(cluster.address, ledger.store.url)
        pool = pool_on(ledger, labels={"kind": "in(big, huge)"})
        kinds = {node.labels.get("kind"): node.resources.get("CPU") for node in pool.nodes()}
        assert (kinds["small"], kinds["big"]) == (1, 1)
        pool.start("miniature")
        wait_for(lambda: [each for each in pool.workers().get("miniature", ()) if each.placed])
        second = pool.start("miniature")
        time.sleep(3)
        places = {
            actor["Name"]: (actor["State"], actor["Address"]["NodeID"])
            for actor in state.actors().values()
        }
        assert places.pop(second)[0] == "PENDING_CREATION", "the small node is free, and not for it"
        ((_, place),) = places.values()
        (big,) = [node for node in ray.nodes() if node["Labels"].get("kind") == "big"]
        assert place == big["NodeID"]
        pool.drain_all(timeout_s=60)


def test_a_worker_that_gives_no_answer_is_killed_and_another_has_its_place(
    environment: Path, ledger: Ledger
) -> None:

    from services.training.ray_pool import connect

    with _cluster(1) as cluster:
        connect(cluster.address, ledger.store.url)
        pool = pool_on(ledger, silence=8)

        def running() -> list[str]:
            return [
                each.name for each in pool.workers().get("miniature", ()) if each.state != "pending"
            ]

        assert [node.resources["CPU"] for node in pool.nodes()] == [1]
        pool.start("miniature")
        (hung,) = wait_for(running)
        assert [node.resources["CPU"] for node in pool.nodes()] == [1], (
            "also what workers have of it"
        )
        pid = process_of(hung)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: not pool.workers())
        pool.start("miniature")
        (other,) = wait_for(running)
        assert other != hung
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        pool.drain_all(timeout_s=60)


def test_two_models_take_turns_where_there_is_one_place(
    environment: Path, ledger: Ledger, bundles: dict[str, bytes]
) -> None:
    """One has a backlog without end."""

    from services.supervisor.supervisor import Supervisor
    from services.training.ray_pool import connect

    with _cluster(1) as cluster:
        connect(cluster.address, ledger.store.url)
        pool = pool_on(ledger, names=("long", "short"))
        model = MINIATURE["miniature"]
        supervision = Supervisor(
            ledger,
            {"long": model, "short": model},
            pool,
            timeouts=SupervisorTimeouts(fair_share_interval_s=1, scale_down_delay_s=20),
        )

        def turn(what: Callable[[], Any]) -> Any:
            return wait_for(lambda: (supervision.reconcile(), what())[1])

        long = submit_one(ledger, bundles, steps=100_000, pool="long")
        turn(lambda: ProgressReader(ledger, 0).read("acme", long))
        short = submit_one(ledger, bundles, steps=3, pool="short")
        turn(lambda: view_job(ledger, "acme", short).state.ended)
        assert view_job(ledger, "acme", short).counts.succeeded == 1
        turn(lambda: view_job(ledger, "acme", long).counts.running)
        first, second = list_attempts(ledger, "acme", long, 0)
        assert first.cause
        assert not second.cause
        pool.drain_all(timeout_s=60)


def process_of(name: str) -> int:
    """Return the process of an actor."""
    from ray._private import state

    (found,) = [each for each in state.actors().values() if each["Name"] == name]
    return int(found["Pid"])


def test_workers_without_a_place_make_the_autoscaler_add_nodes(
    environment: Path, ledger: Ledger, bundles: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster without a GPU, whose autoscaler may add nodes with one each."""
    import ray
    from ray import cluster_utils

    from services.training.ray_pool import connect

    # The fake provider knows no other port.
    port = 6379
    with socket.socket() as port_holder:
        if port_holder.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"port {port}, which Ray's fake nodes need, is taken")

    def check_call(command: list[str], **how: Any) -> None:
        # It would stop every Ray of this machine, whosever it is.
        if command[:2] != ["ray", "stop"]:
            start = [*command[1:], f"--port={port}", "--include-dashboard=false"]
            ray_command = [sys.executable, "-m", "ray.scripts.scripts", *start]
            subprocess.run(ray_command, check=True, capture_output=True, **how)

    monkeypatch.setattr(cluster_utils.subprocess, "check_call", check_call)
    # Ray's own way to begin it takes a file that is not in its wheels.
    monkeypatch.setattr(
        cluster_utils.AutoscalingCluster, "_generate_config", lambda *_, **__: _AUTOSCALED
    )
    cluster = cluster_utils.AutoscalingCluster({"CPU": 0, "object_store_memory": _SMALL}, {})
    cluster.start()
    try:
        connect(f"127.0.0.1:{port}", ledger.store.url)
        pool = pool_on(ledger, gpus=1, device="cpu")
        job = submit_one(ledger, bundles, steps=4)
        assert not [node for node in ray.nodes() if node["Resources"].get("GPU")]
        pool.start("miniature")
        (waiting,) = pool.workers()["miniature"]
        assert waiting.state == "pending"
        wait_for(lambda: view_job(ledger, "acme", job).state.ended)
        assert view_job(ledger, "acme", job).counts.succeeded == 1
        pool.drain_all(timeout_s=60)
    finally:
        ray.shutdown()
