"""Everything that a process has a limited number of: one tenant takes all that it can get of it,
and a second one is let in.
"""

import hashlib
import inspect
import json
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from fastapi.routing import APIRoute
from stub_engine import SECRET, StubEngine

from services.api.app import ROUTERS
from services.api.shares import ApiShares, FairRoute
from services.settings import ApiSettings

SETTINGS: dict[str, Any] = {
    "max_requests": 8,
    "max_body_bytes": 1000,
    "max_body_memory_bytes": 4000,
    "max_concurrent_uploads": 6,
    "max_upload_spool_bytes": 10_000,
    "max_event_streams": 8,
    "max_image_requests": 6,
    "max_image_deliveries": 4,
    "num_request_threads": 8,
    "event_poll_interval_s": 0.02,
}
"""Few of everything, so that all of it can be taken."""


@dataclass
class Attacker:
    """Holds whatever it gets, until it is refused."""

    url: str
    key: str
    stack: ExitStack = field(default_factory=ExitStack)

    def send(
        self, method: str, path: str, body: str = "", *, announced: int = 0, **more: str
    ) -> str:
        """Send a request, or the begin of one, and return the status line, if any comes."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = self.stack.enter_context(socket.create_connection((host, int(port))))
        headers = {
            "Host": "a",
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "Content-Length": str(announced or len(body)),
            **more,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}".encode())
        connection.settimeout(0.1)
        try:
            return connection.recv(65536).decode().partition("\r\n")[0]
        except TimeoutError:
            return ""

    def until_refused(self, send: Callable[[], str]) -> int:
        """Repeat a request until it is refused, and return how many were taken before."""
        for count in range(40):
            if " 429 " in send():
                return count
        raise AssertionError("it was never refused")


_PNG_HEAD = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 64, 64)


def generate(seed: int = 1) -> str:
    return json.dumps({"prompt": "a dog", "steps": 1, "seed": seed})


def hold_requests(attacker: Attacker, job: str) -> int:
    return attacker.until_refused(
        lambda: attacker.send("POST", "/v1/images/generations", "{", announced=10)
    )


def hold_body_bytes(attacker: Attacker, job: str) -> int:
    return attacker.until_refused(
        lambda: attacker.send("POST", "/v1/training-jobs", "{", announced=1000)
    )


def hold_uploads(attacker: Attacker, job: str) -> int:
    path = f"/v1/uploads/{'0' * 64}"
    return attacker.until_refused(lambda: attacker.send("PUT", path, "x", announced=2))


def hold_upload_bytes(attacker: Attacker, job: str) -> int:
    path = f"/v1/uploads/{'0' * 64}"
    return attacker.until_refused(lambda: attacker.send("PUT", path, "x", announced=2500))


def hold_event_streams(attacker: Attacker, job: str) -> int:
    return attacker.until_refused(lambda: attacker.send("GET", f"/v1/training-jobs/{job}/events"))


def hold_image_requests(attacker: Attacker, job: str) -> int:
    return attacker.until_refused(
        lambda: attacker.send("POST", "/v1/images/generations", generate())
    )


def hold_deliveries(attacker: Attacker, job: str) -> int:
    order = json.dumps({"prompt": "a dog", "steps": 1, "stream": True, "n": 10})
    for _ in range(3):
        attacker.send("POST", "/v1/images/generations", order)
    return 3


def hold_threads(attacker: Attacker, job: str) -> int:
    for _ in range(8):
        attacker.send("GET", f"/v1/training-jobs/{job}")
    return 8


def hold_large_orders(attacker: Attacker, job: str) -> int:
    manifest = b'{"id": "a", "bundle": "%s"}' % (b"0" * 64)
    digest = hashlib.sha256(manifest).hexdigest()
    attacker.send("PUT", f"/v1/uploads/{digest}", manifest.decode())
    order = json.dumps({"manifest": digest})
    for number in range(3):
        attacker.send("POST", "/v1/training-jobs", order, **{"Idempotency-Key": f"key-{number}"})
    return 3


HOLDERS: dict[str, Callable[[Attacker, str], int]] = {
    "requests": hold_requests,
    "body_bytes": hold_body_bytes,
    "uploads": hold_uploads,
    "upload_bytes": hold_upload_bytes,
    "event_streams": hold_event_streams,
    "image_requests": hold_image_requests,
    "deliveries": hold_deliveries,
    "threads": hold_threads,
    "large_orders": hold_large_orders,
}


def test_each_share_has_an_attack_here() -> None:
    assert {each.name for each in fields(ApiShares)} == set(HOLDERS)


@contextmanager
def attacked(site: Any, scarce: str, job: str) -> Iterator[str]:
    """Let acme take all that it can get."""
    with site.served() as url, ExitStack() as stack:
        attacker = Attacker(url, site.keys["acme"], stack)
        assert HOLDERS[scarce](attacker, job) >= 1
        yield url


@pytest.mark.parametrize("scarce", HOLDERS)
def test_a_second_tenant_is_let_in(
    scarce: str,
    new_site: Any,
    engine_at: tuple[StubEngine, str],
    parts: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, engines_url = engine_at
    changes = {**SETTINGS, "engines_url": engines_url}
    if scarce == "requests":
        changes["max_body_memory_bytes"] = 2**20
    if scarce == "threads":
        changes["num_request_threads"] = 5
        changes["max_requests"] = 100
    site = new_site(settings=ApiSettings(**changes), engine_secret=SECRET)
    shares = site.app.state.service.shares
    job, theirs, body = site.make("rex"), site.make("tom", tenant="other"), b"image"
    if scarce == "image_requests":
        engine.may_finish.clear()
    if scarce == "deliveries":
        # More than the buffers of a connection hold.
        engine.png = _PNG_HEAD + secrets.token_bytes(3_000_000)
    read, answers = site.store.read, threading.Event()

    def slow_read(key: str, **options: Any) -> Any:
        if key.startswith("t/acme/") and scarce in ("threads", "large_orders"):
            answers.wait(20)
        return read(key, **options)

    monkeypatch.setattr(site.store, "read", slow_read)
    with attacked(site, scarce, job) as url:
        if scarce == "deliveries":
            parts.until(lambda: shares.deliveries.shares.held("acme") == 2)
        headers = site.headers("other")
        with parts.http.Client(headers=headers, base_url=url, timeout=10) as client:
            order = {"prompt": "a dog", "steps": 1, "stream": True}
            with client.stream("POST", "/v1/images/generations", json=order) as stream:
                assert stream.status_code == 200
            engine.may_finish.set()
            assert client.get(f"/v1/training-jobs/{theirs}").status_code == 200
            sha256 = parts.sha256("image")
            assert client.put(f"/v1/uploads/{sha256}", content=body).status_code == 201
            assert client.post("/v1/images/generations", content=generate()).status_code == 200
            order = {"subjects": site.subjects("max")}
            made = client.post(
                "/v1/training-jobs", json=order, headers={"Idempotency-Key": secrets.token_hex(4)}
            )
            assert made.status_code == 202, made.text
            line = json.dumps({"id": "max", "bundle": "0" * 64}).encode()
            manifest = parts.sha256(line.decode())
            assert client.put(f"/v1/uploads/{manifest}", content=line).status_code == 201
            large = client.post(
                "/v1/training-jobs",
                json={"manifest": manifest},
                headers={"Idempotency-Key": secrets.token_hex(4)},
            )
            assert large.status_code == 202, large.text
            with client.stream("GET", f"/v1/training-jobs/{theirs}/events") as stream:
                assert stream.status_code == 200
        answers.set()
    # Once the callers have gone, everything is free again.
    for each in fields(ApiShares):
        share = getattr(shares, each.name)
        parts.until(lambda share=share: getattr(share, "shares", share).used == 0)


def test_all_routes_run_in_the_shares_of_threads() -> None:
    routes = [each for router in ROUTERS for each in router.routes if isinstance(each, APIRoute)]
    assert len(routes) > 20
    assert [route.path for route in routes if not inspect.iscoroutinefunction(route.endpoint)] == []
    assert sum(isinstance(route, FairRoute) for route in routes) > 20
