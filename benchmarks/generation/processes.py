"""The service on this machine, as its processes: where it is, and what they use of the CPU."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch

from services.local.processes import Command, SupervisedProcess
from services.local.service import LocalService, LocalServiceSettings, free_port

API, SERVE, ENGINE = "API", "Serve's proxy", "engine"

PATIENCE = 600.0
"""Seconds until processes are there, on a busy machine."""

_TICK = os.sysconf("SC_CLK_TCK")

Pids = Mapping[str, Callable[[], list[int]]]
"""The processes that do a part of the work."""


@contextmanager
def plain(store: str, models: Path, folder: Path) -> Iterator[tuple[str, Pids]]:
    """One process of the API, and one engine without Ray."""
    api_port, engine_port = free_port(), free_port()
    url, engines = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{engine_port}/engines"
    shared = {"DTI_ENGINE_SECRET": secrets.token_hex(32), "DTI_ENGINES_URL": engines}

    def kept(name: str, *arguments: str) -> SupervisedProcess:
        given = [*arguments, "--store", store, "--models", str(models)]
        line = [sys.executable, "-m", *given]
        return SupervisedProcess(
            Command(name, line, {**os.environ, **shared}), folder / f"{name}.log"
        )

    threads = ["--threads", str(torch.get_num_threads())]
    engine = kept("engine", "services.inference", "run", "--port", str(engine_port), *threads)
    api = kept("api", "services.api", "--port", str(api_port))
    try:
        engine.start()
        api.start()
        _wait(f"{engines}/miniature/healthz", engine)
        _wait(f"{url}/readyz", api)
        yield url, {API: lambda: _pids(api), ENGINE: lambda: _pids(engine)}
    finally:
        api.stop()
        engine.stop()


@contextmanager
def on_ray(store: str, models: Path, folder: Path) -> Iterator[tuple[str, Pids]]:
    """As `dti serve` has it."""
    cpus = 2 * torch.get_num_threads()  # of which torch gets half
    with LocalService(
        LocalServiceSettings(store=store, port=free_port(), models=models, cpus=cpus)
    ) as service:
        service.wait_until_ready(PATIENCE)
        yield (
            service.url,
            {
                API: lambda: _pids(service.api),
                SERVE: lambda: _of_node(service, "ProxyActor"),
                ENGINE: lambda: _of_node(service, "ServeReplica"),
            },
        )


def _wait(url: str, kept: SupervisedProcess) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{url} does not answer:\n{kept.tail()}")
        time.sleep(0.2)


def _pids(kept: SupervisedProcess) -> list[int]:
    return [kept.pid] if kept.pid else []


def _of_node(service: LocalService, name: str) -> list[int]:
    """Processes of the Ray node whose names have this in them."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int(_stat(int(folder.name))[3])
            if session == service.node.pid and name in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue  # It has ended.
    return found


def used(pids: Pids) -> dict[str, float]:
    """Seconds of CPU since they began, all threads of theirs together."""
    return {
        name: sum(sum(map(int, _stat(pid)[11:13])) for pid in find()) / _TICK
        for name, find in pids.items()
    }


def _stat(pid: int) -> list[str]:
    """What /proc says of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
