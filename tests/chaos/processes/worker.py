"""A worker process: one session after another, with a step of each attempt at a time."""

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chaos.config import RoundConfig
from chaos.history import HistoryLog, digest
from chaos.items import POISON_STEP, scripted_failure
from services.errors import LeaseLostError, LedgerError, SupersededError, UnavailableError
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.worker import Heartbeat, WorkerSession


@dataclass(eq=False)
class RunningAttempt:
    """An attempt and its progress."""

    attempt: Attempt
    step: int = 0
    payload: bytes = b""
    """Written once, so that every call of `succeed` has the same bytes."""
    fields: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        item_ref = self.attempt.item_ref
        self.fields = {
            "job": self.attempt.keys.job,
            "round": item_ref.round,
            "index": item_ref.index,
            "number": self.attempt.number,
            "worker": self.attempt.lease.worker,
        }

    def write_payload(self, **more: Any) -> bytes:
        """Return bytes that name their writer, and differ from all others."""
        fields = self.fields | {"tenant": self.attempt.keys.tenant, "once": secrets.token_hex(8)}
        return json.dumps(fields | more).encode()

    def result(self) -> bytes:
        """Return the payload of the result."""
        self.payload = self.payload or self.write_payload()
        return self.payload


class AttemptRunner:
    """Runs the attempts of one session."""

    def __init__(
        self, worker: WorkerSession, ledger: Ledger, config: RoundConfig, log: HistoryLog
    ) -> None:
        self._worker = worker
        self._ledger = ledger
        self._config = config
        self._log = log
        self._running: list[RunningAttempt] = []
        self._claim_at = 0.0

    def step(self) -> None:
        """Fill the free slots, and do a step of each running attempt."""
        if len(self._running) < self._config.slots and time.monotonic() >= self._claim_at:
            self._claim()
        if not self._running:
            time.sleep(self._config.poll_interval_s / 4)
        for running in list(self._running):
            if not self._step(running):
                self._running.remove(running)

    def release_all(self) -> None:
        """Give all running attempts back."""
        while self._running:
            running = self._running[-1]
            running.attempt.release("its worker ends")
            self._log.append("released", **running.fields)
            self._running.pop()

    def _claim(self) -> None:
        requested_at = time.monotonic()
        attempts: list[Attempt] = []
        with contextlib.suppress(UnavailableError):
            attempts = self._worker.claim(self._config.slots)
        if not attempts:
            self._claim_at = time.monotonic() + self._config.poll_interval_s / 2
        claimed_at = getattr(self._ledger.store, "claimed_at", {})
        for attempt in attempts:
            running, resume = RunningAttempt(attempt), attempt.resume_from
            key = attempt.keys.attempt(attempt.item_ref, attempt.number)
            self._log.append(
                "attempt_started",
                **running.fields,
                requested_at=requested_at,
                claimed_at=claimed_at.get(key, requested_at),
                isolated=attempt.isolated,
                resume=resume.step if resume else 0,
                checkpoint=json.loads(resume.payload) if resume else None,
            )
            running.step = resume.step if resume else 0
            self._running.append(running)

    def _step(self, running: RunningAttempt) -> bool:
        """Do a step, and return whether the attempt goes on."""
        attempt, work = running.attempt, running.attempt.item.work
        if attempt.stop_reason:
            self._log.append("abandoned", **running.fields, stop=attempt.stop_reason)
            with contextlib.suppress(UnavailableError):
                attempt.abandon()
            return False
        steps, every = int(str(work["steps"])), int(str(work["every"]))
        if running.step < steps:
            time.sleep(float(str(attempt.shared["pause"])))
            running.step += 1
        poisoned = work["script"] == "poison" and attempt.item_ref.round == 0
        if poisoned and running.step >= POISON_STEP:
            self._log.append("poison", **running.fields)
            os.kill(os.getpid(), signal.SIGKILL)
        if running.step >= steps:
            return self._finish(running)
        return running.step % every > 0 or self._checkpoint(running)

    def _checkpoint(self, running: RunningAttempt) -> bool:
        running.attempt.report_progress({"step": running.step})
        try:
            running.attempt.checkpoint(running.step, running.write_payload(step=running.step))
        except UnavailableError:
            return True
        except (LeaseLostError, SupersededError):
            self._log.append("refused", **running.fields)
            running.attempt.abandon()
            return False
        self._log.append("checkpoint", **running.fields, step=running.step)
        return True

    def _finish(self, running: RunningAttempt) -> bool:
        """Commit the result, and return whether that has to be tried again."""
        attempt, sha256 = running.attempt, ""
        script, round_ = str(attempt.item.work["script"]), attempt.item_ref.round
        failure = scripted_failure(script, round_, attempt.number)
        try:
            if failure:
                attempt.fail(f"it fails {failure}", retry=failure == "again")
            else:
                sha256 = digest(running.result())
                attempt.succeed(running.result(), {"steps": running.step})
        except UnavailableError:
            return True
        except SupersededError:
            self._log.append("superseded", **running.fields)
            return False
        how = failure or "succeeded"
        self._log.append("attempt_ended", **running.fields, how=how, sha256=sha256)
        return False


def run_session(
    ledger: Ledger, config: RoundConfig, log: HistoryLog, is_terminating: Callable[[], bool]
) -> None:
    """Run one session, until its lease is lost or the process is terminating."""
    worker = WorkerSession(ledger, config.pool)
    try:
        worker.begin()
    except UnavailableError:
        time.sleep(config.poll_interval_s)
        return
    log.append("session_started", worker=worker.lease.worker)
    runner = AttemptRunner(worker, ledger, config, log)
    with Heartbeat(worker):
        while not worker.lease.lost and not is_terminating():
            runner.step()
    if worker.lease.lost:
        log.append("lease_lost", worker=worker.lease.worker)
        return
    try:
        runner.release_all()
        worker.end()
    except (UnavailableError, LedgerError):
        return  # The lease expires, as after SIGKILL.
    log.append("session_ended", worker=worker.lease.worker)


def main(ledger: Ledger, config: RoundConfig, log: HistoryLog) -> None:
    """Run sessions until SIGTERM."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    while not signals:
        run_session(ledger, config, log, lambda: bool(signals))
