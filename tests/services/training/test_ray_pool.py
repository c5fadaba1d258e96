"""What a Ray worker and its supervisor do beside Ray itself, without a cluster."""

import socket
import threading
from functools import lru_cache
from typing import Any

import pytest

from services.contracts.models import MINIATURE
from services.errors import SettingsError
from services.settings import WorkerSettings
from services.training import factory, ray_pool
from services.training.pool import WorkerSpec


class EndlessWorker:
    """A worker that works until it is drained."""

    open_attempts = 0

    def __init__(self) -> None:
        self._drained = threading.Event()

    def run(self) -> None:
        assert self._drained.wait(20), "the worker was not drained"

    def drain(self) -> None:
        self._drained.set()


def test_a_worker_sees_a_drain_after_an_error_of_the_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[Any] = [KeyError("a reply without nodes"), ConnectionError("no head"), {"node": 0}]

    def look() -> Any:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    class Context:
        current_actor: Any = type("Actor", (), {"run": type("Run", (), {"remote": print})})

        def get_node_id(self) -> str:
            return "node"

    ended = list[bool]()
    monkeypatch.setattr(ray_pool, "_draining_nodes", look)
    monkeypatch.setattr(ray_pool, "_NODE_POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(ray_pool, "exit_actor", lambda: ended.append(True))
    monkeypatch.setattr(ray_pool, "RayMetrics", lambda process: None)
    monkeypatch.setattr(ray_pool.metrics, "use", lambda metrics: None)
    monkeypatch.setattr(ray_pool.logs, "configure", lambda *arguments, **options: None)
    monkeypatch.setattr(ray_pool.ray, "get_runtime_context", Context)
    monkeypatch.setattr(factory, "open_worker", lambda spec: EndlessWorker())
    spec = WorkerSpec.of(WorkerSettings(store="memory:"), "miniature", MINIATURE["miniature"])
    actor = ray_pool.TrainingActor(spec.model_dump_json())
    actor.run()
    assert (looks, ended) == ([], [True])
    assert actor.status("a").state == "draining"


def test_a_noted_cluster_that_has_ended_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        noted = f"127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_pool.ray_services, "find_gcs_addresses", lru_cache(set))
    monkeypatch.setattr(ray_pool.ray_services, "find_bootstrap_address", lambda folder: noted)
    monkeypatch.setattr(ray_pool.ray, "init", lambda **options: pytest.fail("Ray tries itself"))
    with pytest.raises(SettingsError, match=r"no Ray cluster at 'auto': .*refused"):
        ray_pool.connect("auto", "memory:")


def test_a_cluster_may_have_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    addresses = list[str]()
    monkeypatch.setattr(ray_pool.ray, "init", lambda address, **options: addresses.append(address))
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        address = f"[::1]:{listener.getsockname()[1]}"
        ray_pool.connect(address, "memory:")
    assert addresses == [address]
