"""The time from the start of a worker's process to its first step, in parts.

This is the part `start` of `benchmarks.service`. The end of each part is read from the lease, the
claim and the result in the store, and from the log. The job has one subject of one step, so its
result follows the first step at once.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.service.subjects import (
    TENANT,
    Client,
    PackedSubject,
    pack_subjects,
    submit_to_ledger,
    write_models,
)
from dti_engine.config import TrainConfig
from dti_engine.devices import find_device
from dti_engine.recipes import recipe
from services.ledger.keys import WORKERS_FOLDER
from services.ledger.ledger import Ledger
from services.ledger.queries import list_attempts
from services.local.service import LocalService, LocalServiceSettings, free_port
from services.storage.open import open_store

# So long that the worker does not renew it before the end: its time is the begin of the session.
_LEASE_S = 600

# `python -m services.training` with a line that says when its imports are done.
_PROGRAM = """
import time
import services.training.worker
from services.training.__main__ import main
print(time.time(), flush=True)
main()
"""

_STARTED, _ENDED = "subject started", "attempt ended"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the seconds of each part, for each start."""
    (subject,) = pack_subjects(1, folder / "first")
    config = recipe("miniature").changed(steps=1)
    ways = {
        "a process": [_process(folder, subject, config, options) for _ in range(options.starts)]
    }
    if options.through_ray:
        ways["an actor of `dti serve`"] = [
            _actor(folder / f"actor-{number}", subject, config, options)
            for number in range(options.starts)
        ]
    return {"starts": options.starts, "ways": ways}


def _process(
    folder: Path, subject: PackedSubject, config: TrainConfig, options: argparse.Namespace
) -> dict[str, float]:
    url = str(folder / f"process-{time.monotonic_ns()}")
    ledger = Ledger.open(open_store(url))
    job = submit_to_ledger(ledger, [subject], config)
    command = [sys.executable, "-c", _PROGRAM, "--store", url, "--lease-s", str(_LEASE_S)]
    command += ["--threads", str(options.threads)]
    began = time.time()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            imported = process.stdout.readline()
            lines = list[str]()
            for line in process.stderr:
                lines.append(line)
                if _ENDED in line:
                    break
            else:
                raise RuntimeError(f"the worker has ended:\n{''.join(lines[-20:])}")
            marks = _marks(ledger, job, lines)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    return _parts({"process and imports": float(imported), **marks}, began)


def _actor(
    folder: Path, subject: PackedSubject, config: TrainConfig, options: argparse.Namespace
) -> dict[str, float]:
    """Measure an actor that `dti serve` starts for a job, from the submission on."""
    folder.mkdir()
    gpus = int(find_device("auto").type == "cuda")
    settings = LocalServiceSettings(
        store=str(folder / "store"),
        port=free_port(),
        models=write_models(folder / "models.json", slots=1, gpus=gpus),
        engines=False,
        cpus=2 * options.threads,
        lease_s=_LEASE_S,
    )
    with LocalService(settings) as service:
        service.wait_until_ready(300)
        client = Client(service.url, settings.store)
        client.upload([subject])
        began = time.time()
        job = client.submit([subject], config)
        client.wait_until_ended(job)
        client.http.close()
        logs = (service.folder / "ray").glob("session_latest/logs/worker-*")
        lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
        marks = _marks(Ledger.open(open_store(settings.store)), job, lines)
    return _parts(marks, began)


def _marks(ledger: Ledger, job: str, lines: Iterable[str]) -> dict[str, float]:
    """Return the time at which each part ended, by the clock of this machine."""
    (worker,) = ledger.heads(WORKERS_FOLDER)
    (attempt,) = list_attempts(ledger, TENANT, job, 0)
    assert attempt.cause == "succeeded", attempt
    assert attempt.ended
    records = [json.loads(line) for line in lines if line.startswith("{") and _STARTED in line]
    (started,) = [each for each in records if each.get("job") == job]
    return {
        "model": worker.last_modified.timestamp(),
        "first claim": attempt.claimed.timestamp(),
        "fetched, decoded, encoded": datetime.fromisoformat(started["time"]).timestamp(),
        "first step, and its commit": attempt.ended.timestamp(),
    }


def _parts(marks: dict[str, float], began: float) -> dict[str, float]:
    parts, last = dict[str, float](), began
    for name, mark in marks.items():
        parts[name], last = mark - last, mark
    if "process and imports" not in parts:
        return {"supervisor, process, imports, model": parts.pop("model"), **parts}
    return parts


def show(console: Console, found: dict[str, Any]) -> None:
    for way, starts in found["ways"].items():
        table = Table("", "seconds", "min", "max", title=f"the start of {way}")
        totals = [sum(each.values()) for each in starts]
        rows = {name: [each[name] for each in starts] for name in starts[0]} | {"in all": totals}
        for name, seconds in rows.items():
            cells = (statistics.median(seconds), min(seconds), max(seconds))
            table.add_row(name, *(f"{each:.2f}" for each in cells))
        console.print(table)
    console.print(f"Medians of {found['starts']}, on this machine, with files in the page cache.")
