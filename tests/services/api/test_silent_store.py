"""A store that takes connections and never answers: who is answered, how soon, at what cost."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2 as httpx
import pytest
from stallable_proxy import StallableProxy, stallable_proxy

from services.api.app import create_app
from services.api.server import Server
from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.contracts.models import MINIATURE
from services.ledger.ledger import Ledger
from services.local.service import free_port
from services.metrics import PrometheusMetrics
from services.settings import ApiSettings, ServerSettings
from services.storage import gate as gates
from services.storage import monitor as monitors
from services.storage.gate import StoreGate
from services.storage.instrumented import InstrumentedStore
from services.storage.interface import Store
from services.storage.monitor import StoreMonitor

_TIMEOUTS = {"connect_timeout_s": 1.0, "read_timeout_s": 1.0, "deadline_s": 1.0}
"""A fifth of the API's own, so that the tests are short."""


class Api(NamedTuple):
    """An API over a store with a gate."""

    client: httpx.Client
    gate: StoreGate
    monitor: StoreMonitor

    def status(self, path: str, key: str = "") -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.client.get(path, headers=headers).status_code


@contextmanager
def api(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(gates, "_PING_LIMIT_S", 1.0)
    monkeypatch.setattr(monitors, "_INTERVAL_S", 0.1)
    gate = StoreGate(is_shut=True)
    monitor = StoreMonitor(store, gate)
    app = create_app(
        Ledger.open(InstrumentedStore(store, gate)),
        MINIATURE,
        settings=ApiSettings(store_timeout_s=0.5),
        metrics=PrometheusMetrics(process="api"),
        gate=gate,
    )
    served = Server(app, ServerSettings(port=0), grace_s=2)
    thread = threading.Thread(target=served.run)
    thread.start()
    monitor.start()
    monitor.call_when_refused(served.stop)
    try:
        while not served.started:
            time.sleep(0.01)
        [listener] = served.servers[0].sockets
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=10) as client:
            yield Api(client, gate, monitor)
    finally:
        monitor.stop()
        served.stop()
        thread.join(20)


@pytest.fixture
def kind() -> str:
    return "moto"


@pytest.fixture
def proxy(server: Any) -> Iterator[StallableProxy]:
    with stallable_proxy(server.endpoint) as proxy:
        yield proxy


def test_a_store_that_is_silent_from_the_start_leaves_probes_and_metrics(
    make_s3: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        stallable_proxy() as silent,
        api(make_s3(endpoint=silent.endpoint, **_TIMEOUTS), monkeypatch) as served,
    ):
        assert not served.monitor.wait_until_probed(0.01)
        with ThreadPoolExecutor(30) as pool:
            path = "/v1/training-jobs"
            answers = [pool.submit(served.status, path, "dti_a_b") for _ in range(30)]
            for path, status in (
                ("/healthz", 200),
                ("/metrics", 200),
                ("/docs", 200),
                ("/readyz", 503),
                ("/images/acme/0?expires=1&signature=a", 503),
                ("/nowhere", 503),
            ):
                assert served.status(path) == status, path
            assert {answer.result() for answer in answers} == {503}
        refused = served.client.post("/v1/images/generations", json={})
        assert refused.headers["Retry-After"] == "2"
        assert "did not answer" in refused.json()["error"]["message"]
        # None of the requests has asked the store: the probe alone did.
        assert silent.accepted < 10
        silent.close()  # so that the probe ends at once


@pytest.mark.slow
def test_requests_end_while_a_store_is_silent_and_go_on_when_it_answers(
    make_s3: Callable[..., Store],
    proxy: StallableProxy,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], object]], None],
) -> None:
    store = make_s3(endpoint=proxy.endpoint, **_TIMEOUTS)
    key = create_key(store, "acme").credential
    with api(store, monkeypatch) as served:
        assert served.monitor.wait_until_probed(30)
        assert served.status("/v1/training-jobs", key) == 200
        assert served.status("/readyz") == 200
        proxy.stall()
        with ThreadPoolExecutor(60) as pool:
            answers = [pool.submit(served.status, "/v1/training-jobs", key) for _ in range(60)]
            assert served.status("/healthz") == served.status("/metrics") == 200
            assert {answer.result() for answer in answers} == {503}
        eventually(lambda: served.gate.is_shut)
        assert served.status("/readyz") == 503
        # While the gate is shut, requests reach neither a thread nor the store.
        accepted = proxy.accepted
        assert {served.status("/v1/training-jobs", key) for _ in range(20)} == {503}
        assert proxy.accepted - accepted < 20
        proxy.resume()
        eventually(lambda: not served.gate.is_shut)
        assert served.status("/v1/training-jobs", key) == 200
        assert served.status("/readyz") == 200


@pytest.mark.slow
def test_the_process_answers_beside_a_store_that_falls_silent(
    server: Any, make_s3: Callable[..., Store], proxy: StallableProxy
) -> None:
    """Take 40 s, since the process has its own time limits; the longer ones are for a busy host."""
    store = make_s3()
    key = create_key(store, "acme").credential
    set_limits(store, "acme", {"requests_per_second": 100_000, "burst": 100_000})
    headers = {"Authorization": f"Bearer {key}"}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    body = b"PK" + bytes(500)

    client = httpx.Client(base_url=url, headers=headers, limits=httpx.Limits(max_connections=200))

    def status(path: str, timeout_s: float) -> int:
        return client.get(path, timeout=timeout_s).status_code

    def put(number: int) -> int:
        upload = body + str(number).encode()
        path = f"/v1/uploads/{hashlib.sha256(upload).hexdigest()}"
        return client.put(path, content=upload, timeout=20).status_code

    environment = {"DTI_S3_ENDPOINT": proxy.endpoint, "DTI_S3_ADDRESSING_STYLE": "path"}
    proxy.stall()
    arguments = ["--store", store.url, "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "services.api", *arguments], env=os.environ | environment
    )
    try:
        _wait_for(lambda: status("/healthz", 5) == 200)  # it listens, although nothing answers
        assert (status("/readyz", 5), status("/v1/audit", 5)) == (503, 503)
        proxy.resume()
        _wait_for(lambda: status("/readyz", 5) == 200)
        assert status("/v1/training-jobs", 20) == 200
        for _ in range(2):
            proxy.stall()
            with ThreadPoolExecutor(80) as pool:
                paths = ("/v1/training-jobs", "/v1/tokens", "/v1/uploads")
                answers = [pool.submit(status, path, 20) for path in paths * 20]
                answers += [pool.submit(put, number) for number in range(20)]
                assert (status("/healthz", 5), status("/metrics", 5)) == (200, 200)
                assert {answer.result() for answer in answers} == {503}
            assert status("/readyz", 5) == 503
            proxy.resume()
            _wait_for(lambda: status("/readyz", 5) == 200)
            assert status("/v1/training-jobs", 20) == 200
    finally:
        process.kill()
        process.wait()
        client.close()


def _wait_for(holds: Callable[[], bool], timeout_s: float = 40) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end
        time.sleep(0.1)
