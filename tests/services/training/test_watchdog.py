"""A device that hangs: the process ends, and other workers resume its subjects."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.contracts.jobs import JobState
from services.ledger.ledger import Ledger
from services.ledger.queries import list_attempts
from services.settings import LedgerSettings
from services.storage.directory import DirectoryStore
from services.training import worker
from services.training.worker import EXIT_CODE_HUNG, Watchdog

from .conftest import Workshop

pytestmark = pytest.mark.slow

_HANGS = """
import sys, threading
from dti_engine.training.trainer import Trainer
from services.training.__main__ import main

step, steps = Trainer.step, []

def hung(self):
    steps.append(1)
    if len(steps) > 3:
        threading.Event().wait()
    return step(self)

Trainer.step = hung
main()
"""
"""A worker whose device comes back from three steps."""


def test_a_device_that_hangs_loses_its_attempts_and_ends_the_process(
    tmp_path: Path, workshop: Workshop
) -> None:
    settings = LedgerSettings(lease_s=2, poll_interval_s=0.05)
    workshop.ledger = Ledger.open(DirectoryStore(tmp_path / "store"), settings)
    job = workshop.submit(workshop.works(2))
    done = subprocess.run(
        [
            *(sys.executable, "-c", _HANGS),
            *("--store", str(tmp_path / "store"), "--lease-s", "600", "--watchdog-timeout-s", "5"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == EXIT_CODE_HUNG, done.stderr
    assert "device makes no progress" in done.stderr
    # Though its lease would last for long, they are others' at once.
    with workshop.working():
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED
    attempts = list_attempts(workshop.ledger, workshop.tenant, job, 0)
    assert [each.cause for each in attempts] == ["lost", "succeeded"]


def test_a_process_with_progress_is_left_alone_and_one_that_has_ended_too() -> None:
    ends = list[int]()
    done = threading.Event()
    with Watchdog(1, lambda: None, ends.append) as dog:
        for _ in range(40):
            dog.progress()
            done.wait(0.05)
    done.wait(1.5)
    assert not ends


def test_a_farewell_that_hangs_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "_BEFORE_END_S", 0.1)
    ended = threading.Event()
    with Watchdog(0.1, lambda: threading.Event().wait() and None, lambda code: ended.set()):
        assert ended.wait(10)
