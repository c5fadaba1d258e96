"""The supervisor as a process beside a Ray node, as in a pod: it starts first."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx
import pytest

from services.local.service import free_port

from .conftest import SECONDS

pytestmark = pytest.mark.ray


@contextmanager
def process(log: Path, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            env={**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", **environment},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(30)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)


def wait_for(what: Callable[[], Any], log: Path) -> Any:
    end = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)
    return found


def write(models: Path, **changes: object) -> None:
    model = {"weights": "miniature", "recipe": "miniature", "gpus": 0} | changes
    new = models.with_suffix(".new")
    new.write_text(json.dumps({"miniature": model}))
    new.rename(models)


def test_it_waits_for_ray_tells_its_health_and_ends_when_the_models_change(tmp_path: Path) -> None:
    """Meanwhile the lines of a worker appear in the output of `ray start`."""
    models, log, port, health = tmp_path / "m.json", tmp_path / "log", free_port(), free_port()
    write(models, min_workers=1)
    settings = (
        *("services.supervisor", "--ray-address", f"127.0.0.1:{port}", "--node-ip", "127.0.0.1"),
        *("--store", tmp_path / "store", "--models", models, "--health-port", health),
        *("--reconcile-interval-s", "0.5"),
    )
    node = (
        *("ray.scripts.scripts", "start", "--head", "--block", "--port", port, "--num-cpus=1"),
        *("--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"),
        *("--temp-dir", mkdtemp(prefix="dti-", dir="/tmp"), "--object-store-memory=100000000"),
    )

    node_log = tmp_path / "node.log"

    def health_page() -> Any:
        return httpx.get(f"http://127.0.0.1:{health}/healthz", timeout=5).json()

    with process(log, *settings) as supervisor:
        wait_for(lambda: "waiting for Ray" in log.read_text(), log)
        assert health_page()["status"] == "ok"
        with process(node_log, *node, DTI_LOG_TO_CONTAINER="1"):
            wait_for(lambda: "\nready\n" in log.read_text(), log)
            assert health_page()["ages_s"]["passes"] < 60
            assert log.read_text().count("waiting for Ray") < 4, "once for each reason"
            wait_for(lambda: '"process": "worker"' in node_log.read_text(), node_log)
            maps = Path(f"/proc/{supervisor.pid}/maps").read_text()
            assert "libtorch" not in maps
            write(models, min_workers=1, max_workers=3)
            assert supervisor.wait(60) == 0, log.read_text()[-3000:]
            assert "models file has changed" in log.read_text()
