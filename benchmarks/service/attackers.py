"""The attacks of `benchmarks.service.attacks`: each runs in a process until it is told to stop.

Attackers without a key and the tenant `attacker` do what they may, at once and again whenever they
are refused, and never what a client has to do in return.
"""

import asyncio
import hashlib
import io
import json
import secrets
import socket
import tarfile
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.service.attacked_api import FLOOD_PROMPT, HELD_PROMPT
from services.ledger.ids import token_id
from services.settings import ApiSettings

_PAUSE_S = 0.5
"""The time after which a refused attacker tries again."""

_HALF_HEAD = "GET /healthz HTTP/1.1\r\nHost: a\r\n"
_STRANGERS_ADDRESS = "127.0.0.2"

Sender = Callable[["Attacker"], Awaitable[None]]


@dataclass
class Attacker:
    """An attacker sends requests to one port with one key, and counts the answers by status."""

    port: int
    key: str
    address: str = "127.0.0.1"
    """The address that its connections come from: by default the one of all other clients."""
    answers: Counter[str] = field(default_factory=Counter[str])

    async def connect(
        self, *, receive_buffer: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        sock.bind((self.address, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        limit = receive_buffer or 2**16
        return await asyncio.open_connection(sock=sock, limit=limit)

    def head(self, method: str, path: str, length: int = 0, **headers: str) -> bytes:
        """Return the head of a request with the attacker's key."""
        fields = {
            "Host": "a",
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "Content-Length": str(length),
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> str:
        """Send a request, count its status and return it; empty if the connection broke."""
        reader, writer = await self.connect()
        status = ""
        try:
            with suppress(ConnectionError):
                writer.write(self.head(method, path, len(body), Connection="close", **headers))
                # In pieces: asyncio would copy a large body as a whole for each part it sends.
                for start in range(0, len(body), 2**18):
                    writer.write(body[start : start + 2**18])
                    await writer.drain()
            with suppress(ConnectionError):
                status = (await reader.readline()).decode()[9:12]
                while await reader.read(2**16):
                    pass
        finally:
            writer.transport.abort()
        self.answers[status or "broken"] += 1
        return status

    async def ask_again(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request, and wait for a moment if it was refused for now."""
        if await self.ask(method, path, body, **headers) in ("", "429", "503"):
            await asyncio.sleep(_PAUSE_S)


async def _endless_header(attacker: Attacker) -> None:
    _, writer = await attacker.connect()
    try:
        writer.write(_HALF_HEAD.encode() + b"X: ")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
    except ConnectionError:
        attacker.answers["broken"] += 1
    finally:
        writer.transport.abort()


async def _half_head(attacker: Attacker) -> None:
    reader, writer = await attacker.connect()
    try:
        writer.write(_HALF_HEAD.encode())
        with suppress(ConnectionError):
            await reader.read()
        attacker.answers["closed"] += 1
        await asyncio.sleep(_PAUSE_S)
    finally:
        writer.transport.abort()


async def _unknown_key(attacker: Attacker) -> None:
    key = f"dti_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
    stranger = Attacker(attacker.port, key, _STRANGERS_ADDRESS, attacker.answers)
    await stranger.ask("GET", "/v1/models")


def _slow_body(method: str, path: str) -> Sender:
    async def send(attacker: Attacker) -> None:
        reader, writer = await attacker.connect()
        try:
            writer.write(attacker.head(method, path, 100_000))
            answer = asyncio.ensure_future(reader.readline())
            with suppress(ConnectionError):
                while not (await asyncio.wait({answer}, timeout=1))[0]:
                    writer.write(b" ")
                attacker.answers[(await answer).decode()[9:12] or "closed"] += 1
        finally:
            writer.transport.abort()
        await asyncio.sleep(_PAUSE_S)

    return send


def _images(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a dog", **fields}).encode()


async def _held_images(attacker: Attacker) -> None:
    await attacker.ask_again("POST", "/v1/images/generations", _images(prompt=HELD_PROMPT, n=10))


async def _stalled_stream(attacker: Attacker) -> None:
    body = _images(prompt=FLOOD_PROMPT, n=10, stream=True, partial_images=3, steps=4)
    _, writer = await attacker.connect(receive_buffer=4096)
    try:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(attacker.head("POST", "/v1/images/generations", len(body)) + body)
        await asyncio.sleep(60)
    finally:
        writer.transport.abort()


def _cycle(requests: Sequence[tuple[str, str, bytes]]) -> Sender:
    """Return a sender of these requests, one after the other over all tasks."""
    sent = 0

    async def send(attacker: Attacker) -> None:
        nonlocal sent
        method, path, body = requests[sent % len(requests)]
        sent += 1
        await attacker.ask_again(method, path, body, **{"Idempotency-Key": f"key-{sent}"})

    return send


def _filled(begin: bytes, piece: bytes, end: bytes, size: int) -> bytes:
    """Return a body of about `size` bytes that repeats a piece."""
    return begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


def _large_json() -> Sender:
    """Return a sender of the largest bodies and the largest manifest, dense, deep, valid or not."""
    settings = ApiSettings()
    size, small = settings.max_body_bytes - 1000, 2**20 - 1000
    images = b",".join(
        b'{"name":"%s%d","sha256":"%064d"}' % (b"n" * 40, number, number) for number in range(14)
    )
    subject = b'{"id":"a","images":[%s],"initializer":"dog"},' % images
    bodies = {
        "/v1/training-jobs": [
            _subjects(subject, size),
            _filled(b'{"subjects":[', b"1,", b"1]}", size),
            _filled(b'{"overrides":', b'{"a":', b"1", size),
            _filled(b'{"subjects":[', b"[],", b"1]}", size),
            _unknown_keys(size),
            b"[" * size,
        ],
        "/v1/generation-jobs": [
            _filled(b'{"prompts":[', b'"%s",' % (b"a" * 3000), b'"a"]}', size),
            _filled(b'{"tokens":[', b'"",', b'""]}', size),
        ],
        "/v1/images/generations": [
            _filled(b'{"prompt":"a","tokens":{', b'"":"",', b'"":""}}', small),
            _filled(b'{"prompt":"', rb"\u0061", b'"}', small),
        ],
        "/v1/uploads": [_filled(b'{"files":[', b"{},", b"{}]}", small), b"[" * small],
        "/v1/erasures": [_filled(b'{"subject":[', b"1,", b"1]}", small)],
    }
    lines = [b'{"id":"%d",' % n + subject.partition(b",")[2][:-1] for n in range(10_000)]
    # Each subject has other images, so that nothing is shared between them.
    manifest = b"\n".join(lines).replace(b"n" * 40, b"m")[: settings.max_manifest_bytes]
    manifest = manifest.rpartition(b"\n")[0]
    digest = hashlib.sha256(manifest).hexdigest()
    order = json.dumps({"manifest": digest}).encode()
    posts = [("POST", path, body) for path, each in bodies.items() for body in each]
    return _cycle(
        [("PUT", f"/v1/uploads/{digest}", manifest), ("POST", "/v1/training-jobs", order), *posts]
    )


def _subjects(subject: bytes, size: int) -> bytes:
    """Return a valid order of as many subjects as fit; they differ by their ids."""
    count = size // (len(subject) + 4)
    each = [subject.replace(b'"id":"a"', b'"id":"%d"' % number) for number in range(count)]
    return b'{"dry_run":true,"subjects":[%s]}' % b"".join(each)[:-1]


def _unknown_keys(size: int) -> bytes:
    """Return an object whose keys are all unknown, so that each is an error."""
    keys = b",".join(b'"%020d":1' % number for number in range(size // 25))
    return b"{%s}" % keys


def _huge_orders() -> Sender:
    mention = " ".join(f"<{token_id('0' * 26, 0, number)}>" for number in range(100))
    thousands = [f"a dog {number}" for number in range(10_000)]
    bodies: list[tuple[str, Mapping[str, Any]]] = [
        ("/v1/images/generations", {"prompt": "a", "steps": 10**18}),
        ("/v1/images/generations", {"prompt": "a", "steps": 10**4000}),
        ("/v1/images/generations", {"prompt": "a", "size": "4096x4096", "steps": 150, "n": 10}),
        ("/v1/generation-jobs", {"prompts": thousands, "negative_prompt": mention}),
        ("/v1/generation-jobs", {"prompts": thousands, "seeds": list(range(10_000))}),
        ("/v1/generation-jobs", {"prompts": thousands, "steps": 150, "dry_run": True}),
        *(
            ("/v1/training-jobs", {"subjects": [{"id": "a", "bundle": "0" * 64}], **changes})
            for changes in (
                {"overrides": {"steps": 10**18}},
                {"overrides": {"batch_size": 10**9, "resolution": 80_000}},
                {"overrides": {"vectors": 10**9}},
            )
        ),
    ]
    return _cycle([("POST", path, json.dumps(body).encode()) for path, body in bodies])


def _hostile_tar() -> Sender:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 480_000_000
    pack, packed = zlib.compressobj(1, wbits=31), io.BytesIO()
    packed.write(pack.compress(header.tobuf(tarfile.GNU_FORMAT)))
    for _ in range(480):
        packed.write(pack.compress(b"a" * 1_000_000))
    packed.write(pack.flush())
    body = packed.getvalue()
    digest = hashlib.sha256(body).hexdigest()
    order = json.dumps({"subjects": [{"id": "a", "bundle": digest}]}).encode()
    upload = ("PUT", f"/v1/uploads/{digest}", body)
    return _cycle([upload, upload, upload, ("POST", "/v1/training-jobs", order)])


@dataclass(frozen=True)
class Attack:
    """An attack: what each of its tasks repeats, and how many there are."""

    sender: Callable[[], Sender]
    tasks: int


ATTACKS: Mapping[str, Attack] = {
    "endless headers": Attack(lambda: _endless_header, 4),
    "half heads": Attack(lambda: _half_head, 1100),
    "unknown keys": Attack(lambda: _unknown_key, 8),
    "slow bodies": Attack(lambda: _slow_body("POST", "/v1/training-jobs"), 600),
    "slow uploads": Attack(lambda: _slow_body("PUT", f"/v1/uploads/{'0' * 64}"), 200),
    "full queue": Attack(lambda: _held_images, 600),
    "stalled readers": Attack(lambda: _stalled_stream, 300),
    "large JSON": Attack(_large_json, 4),
    "huge orders": Attack(_huge_orders, 8),
    "hostile tar": Attack(_hostile_tar, 8),
}
"""The attacks by name. The first five need no more than patience, the last three cost parsing."""


def run_attack(name: str, port: int, key: str, channel: Connection) -> None:
    """Attack until something is received, then send the counts of the answers."""
    attack = ATTACKS[name]
    sender, attacker = attack.sender(), Attacker(port, key)

    async def repeat() -> None:
        while True:
            try:
                await sender(attacker)
            except OSError:  # such as a connection that was reset while it was made
                attacker.answers["broken"] += 1
                await asyncio.sleep(_PAUSE_S)

    async def run() -> None:
        tasks = [asyncio.create_task(repeat()) for _ in range(attack.tasks)]
        channel.send("attacking")
        await asyncio.to_thread(channel.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channel.send(dict(attacker.answers))

    asyncio.run(run())
