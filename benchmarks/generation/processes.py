"""Starts the service as processes on this machine, and reads their CPU times."""

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

START_TIMEOUT_S = 600.0
"""Enough for processes to start on a busy machine."""

_TICK = os.sysconf("SC_CLK_TCK")

Pids = Mapping[str, Callable[[], list[int]]]
"""A function that lists the process ids, by the part of the service that the processes do."""


@contextmanager
def without_ray(store: str, models: Path, folder: Path) -> Iterator[tuple[str, Pids]]:
    """Run one process of the API and one engine, without Ray; yield the URL and the processes."""
    api_port, engine_port = free_port(), free_port()
    url, engines = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{engine_port}/engines"
    shared = {"DTI_ENGINE_SECRET": secrets.token_hex(32), "DTI_ENGINES_URL": engines}

    def supervised(name: str, *arguments: str) -> SupervisedProcess:
        line = [sys.executable, "-m", *arguments, "--store", store, "--models", str(models)]
        command = Command(name, line, {**os.environ, **shared})
        return SupervisedProcess(command, folder / f"{name}.log")

    threads = ["--threads", str(torch.get_num_threads())]
    engine = supervised("engine", "services.inference", "run", "--port", str(engine_port), *threads)
    api = supervised("api", "services.api", "--port", str(api_port))
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
def with_ray(store: str, models: Path, folder: Path) -> Iterator[tuple[str, Pids]]:
    """Run the processes of `dti serve`; yield the URL and the processes."""
    cpus = 2 * torch.get_num_threads()  # torch gets half of them
    with LocalService(
        LocalServiceSettings(store=store, port=free_port(), models=models, cpus=cpus)
    ) as service:
        service.wait_until_ready(START_TIMEOUT_S)
        yield (
            service.url,
            {
                API: lambda: _pids(service.api),
                SERVE: lambda: _of_node(service, "ProxyActor"),
                ENGINE: lambda: _of_node(service, "ServeReplica"),
            },
        )


def _wait(url: str, process: SupervisedProcess) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"{url} does not answer:\n{process.tail()}")
        time.sleep(0.2)


def _pids(process: SupervisedProcess) -> list[int]:
    return [process.pid] if process.pid else []


def _of_node(service: LocalService, name: str) -> list[int]:
    """Return the processes of the Ray node whose command lines contain `name`."""
    pids: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int(_stat(int(folder.name))[3])
            if session == service.node.pid and name in (folder / "cmdline").read_text():
                pids.append(int(folder.name))
        except OSError:
            continue  # the process ended while it was read
    return pids


def cpu_seconds(pids: Pids) -> dict[str, float]:
    """Return the CPU seconds of the processes since their start, over all their threads."""
    return {
        name: sum(sum(map(int, _stat(pid)[11:13])) for pid in find()) / _TICK
        for name, find in pids.items()
    }


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
