"""Starts a process of the API with a stub engine for the attacks, and reads the API's memory."""

import asyncio
import multiprocessing
import os
import re
import secrets
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from services.auth.keys import create_key
from services.auth.tenants import set_limits
from services.contracts.generation import GenerateRequest, ImageEvent, StepEvent
from services.local.service import free_port
from services.process import RETURN_FREED_MEMORY
from services.storage.interface import Store
from services.storage.open import open_store

ATTACKER = "attacker"
_ATTACKER_LIMITS = {"requests_per_second": 200.0, "burst": 2000}
"""Ten times the default and more, so that the rate alone does not stop an attack."""

HELD_PROMPT, FLOOD_PROMPT = "held", "flood"
"""The prompts whose images the stub engine never ends, and sends with all the bytes it can."""

_PREVIEW_BYTES, _PNG_BYTES = 200_000, 2_000_000
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class AttackedApi:
    """A running process of the API on a store in a folder."""

    port: int
    pid: int
    attacker_key: str
    store: Store

    def new_tenants(self, prefix: str, count: int) -> list[str]:
        """Return the keys of tenants that the process has never met."""
        return [create_key(self.store, f"{prefix}-{number}").credential for number in range(count)]

    def forget_peak(self) -> None:
        """Let the peak of the memory begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return the largest resident memory, in megabytes, since the peak was forgotten."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, "this kernel does not tell the peak of a process"
        return int(found[1]) * 1024 / 1e6


@contextmanager
def attacked_api(folder: Path) -> Iterator[AttackedApi]:
    """Run the API with its default settings, and a stub engine, until the context is left."""
    store_url, engine_port = str(folder / "store"), free_port()
    secret = secrets.token_hex(32)
    store = open_store(store_url)
    key = create_key(store, ATTACKER).credential
    set_limits(store, ATTACKER, dict(_ATTACKER_LIMITS))
    engine = _CONTEXT.Process(target=_serve_engine, args=(engine_port,), daemon=True)
    engine.start()
    environment = {
        **os.environ,
        **RETURN_FREED_MEMORY,  # as in the container and in `dti serve`
        "DTI_ENGINE_SECRET": secret,
        "DTI_ENGINES_URL": f"http://127.0.0.1:{engine_port}/engines",
    }
    command = [sys.executable, "-m", "services.api", "--store", store_url, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield AttackedApi(_port(process), process.pid, key, store)
        finally:
            process.kill()
            engine.kill()
            engine.join()


def _port(process: subprocess.Popen[str]) -> int:
    """Return the port that the API logs, and let a thread read the rest of its log."""
    assert process.stderr
    lines = deque[str](maxlen=50)
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            # A pipe that is not read fills up and blocks the process.
            threading.Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
            return int(found[1])
    raise RuntimeError(f"the API does not start:\n{''.join(lines)}")


def _serve_engine(port: int) -> None:
    routes = [Route("/engines/{model}/generate", _generate, methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), port=port, log_level="error", access_log=False)


async def _generate(request: Request) -> Response:
    """Answer as an engine does; the prompt decides what comes."""
    generate = GenerateRequest.model_validate_json(await request.body())
    return StreamingResponse(_lines(generate))


async def _lines(request: GenerateRequest) -> AsyncIterator[str]:
    prompt = request.images[0].prompt
    flood = prompt == FLOOD_PROMPT
    for index in range(len(request.images)):
        preview = secrets.token_bytes(_PREVIEW_BYTES) if flood else None
        steps = 4 if flood else 1
        for step in range(1, steps + 1):
            event = StepEvent(image=index, step=step, steps=steps, preview=preview)
            yield event.model_dump_json() + "\n"
        while prompt == HELD_PROMPT:
            await asyncio.sleep(3600)
        png = secrets.token_bytes(_PNG_BYTES if flood else 10_000)
        yield ImageEvent(image=index, png=png, settings={}).model_dump_json() + "\n"
