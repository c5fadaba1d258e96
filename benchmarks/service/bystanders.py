"""Those who use the service during an attack: a probe of /healthz, and tenants that come first.

Each is a process of its own, which runs until it is told to stop or until its requests are done.
"""

import asyncio
import hashlib
import http.client
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

_TIMEOUT_S = 30.0
"""The time after which a request counts as lost, with this time as its own."""

_PROBE_INTERVAL_S = 0.05
_PROBE = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def run_probe(port: int, channel: Connection) -> None:
    """Ask /healthz on a new connection at a fixed rate; send the seconds of each answer at the end.

    The rate is fixed, so that a stall delays as many probes as fall into it.
    """

    async def probe(times_s: list[float]) -> None:
        began = time.perf_counter()
        elapsed_s = _TIMEOUT_S
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(_PROBE)
                answer = await reader.read()
                writer.close()
                if answer.startswith(b"HTTP/1.1 200 "):
                    elapsed_s = time.perf_counter() - began
        times_s.append(elapsed_s)

    async def run() -> None:
        times_s: list[float] = []
        stop = asyncio.create_task(asyncio.to_thread(channel.recv))
        channel.send("probing")
        next_s = time.perf_counter()
        async with asyncio.TaskGroup() as probes:
            while not stop.done():
                probes.create_task(probe(times_s))
                next_s += _PROBE_INTERVAL_S
                await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
        channel.send(times_s)

    asyncio.run(run())


class _Request(NamedTuple):
    method: str
    path: str
    body: bytes
    statuses: tuple[int, ...]


def _requests() -> Mapping[str, _Request]:
    """Return what a tenant may begin with, by name."""
    file = secrets.token_bytes(10_000)
    order = {"subjects": [{"id": "rex", "bundle": "0" * 64}]}
    images = {"prompt": "a dog", "steps": 1}
    upload = f"/v1/uploads/{hashlib.sha256(file).hexdigest()}"
    return {
        "upload": _Request("PUT", upload, file, (201,)),
        "list": _Request("GET", "/v1/training-jobs", b"", (200,)),
        "submit": _Request("POST", "/v1/training-jobs", json.dumps(order).encode(), (202,)),
        "generate": _Request("POST", "/v1/images/generations", json.dumps(images).encode(), (200,)),
    }


KINDS = tuple(_requests())


class Asked(NamedTuple):
    """This tuple holds the answers to the first requests of new tenants."""

    times_s: dict[str, list[float]]
    """Seconds by kind of request."""
    refused: list[str]
    """The requests that were not carried out, in words."""


def run_tenants(port: int, keys: Sequence[str], seconds: float, channel: Connection) -> None:
    """Let each tenant send its first request, spread over some seconds, and send what they got."""
    asked = Asked({kind: [] for kind in KINDS}, [])
    began = time.perf_counter()
    for number, key in enumerate(keys):
        kind = KINDS[number % len(KINDS)]
        elapsed_s, refusal = _ask(port, key, _requests()[kind])
        asked.times_s[kind].append(elapsed_s)
        if refusal:
            asked.refused.append(f"{kind}: {refusal}")
        due_s = began + seconds * (number + 1) / len(keys)
        time.sleep(max(0.0, due_s - time.perf_counter()))
    channel.send(asked)


def _ask(port: int, key: str, request: _Request) -> tuple[float, str]:
    """Return the seconds until the whole answer, and why the request was not carried out."""
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": secrets.token_hex(8)}
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request(request.method, request.path, request.body, headers)
        response = connection.getresponse()
        answer = response.read()
    except OSError as error:
        return _TIMEOUT_S, str(error) or type(error).__name__
    finally:
        connection.close()
    if response.status not in request.statuses:
        return _TIMEOUT_S, f"{response.status} {answer[:200].decode()}"
    return time.perf_counter() - began, ""
