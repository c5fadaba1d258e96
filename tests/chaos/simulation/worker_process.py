"""Simulated workers: they step, save checkpoints, commit, crash, pause and drain."""

from collections.abc import Callable
from dataclasses import dataclass

from chaos.simulation.history import AttemptStart, History, SavedCheckpoint, attempt_key
from chaos.simulation.process import Process
from chaos.simulation.recorder import StoreRecorder
from services.errors import LeaseLostError, StorageError, SupersededError
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.worker import WorkerSession

POOL = "default"
_CALLS = 400
"""Limit for store calls in one claim: many times what it takes."""

_COMMIT_TRIES = 5
"""Tries of a commit before it is left to others."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The capacity and the pace of a worker."""

    slots: int
    step_s: float
    """Duration of one step of all running attempts."""
    drain_probability: float
    """Probability, per step, of a drain as on SIGTERM."""


class WorkerProcess:
    """The process of one worker."""

    def __init__(
        self,
        process: Process,
        open_ledger: Callable[[Process], Ledger],
        history: History,
        worker: WorkerConfig,
    ) -> None:
        self.process = process
        self.running: dict[Attempt, int] = {}
        """Started attempts, and their steps."""
        self._ledger = open_ledger(process)
        self._history = history
        self._config = worker

    def run(self) -> None:
        """Run one session after another."""
        while True:
            worker = WorkerSession(self._ledger, POOL, rng=self.process.world.random)
            try:
                worker.begin()
            except (LeaseLostError, StorageError):
                self.process.sleep(1)
                continue
            beats = [True]
            self.process.spawn(lambda worker=worker, beats=beats: self._beat(worker, beats), "beat")
            self._run_session(worker)
            beats.clear()

    def _beat(self, worker: WorkerSession, beats: list[bool]) -> None:
        pause = self._ledger.settings.lease_s / 4
        while True:
            self.process.sleep(pause)
            if not beats:
                return
            try:
                worker.heartbeat()
            except LeaseLostError:
                return
            except StorageError:
                continue

    def _run_session(self, worker: WorkerSession) -> None:
        """Run until the lease is lost, or the worker drains."""
        while True:
            if not worker.lease.lost:
                self._claim(worker)
            if worker.lease.lost and not self.running:
                return
            if self.process.world.random.random() < self._config.drain_probability:
                self._drain(worker)
                return
            if not self.running:
                self.process.sleep(max(self._ledger.settings.poll_interval_s, 1.0))
                continue
            self.process.sleep(self._config.step_s)
            for attempt in list(self.running):
                self._step(attempt)

    def _claim(self, worker: WorkerSession) -> None:
        assert isinstance(self._ledger.store, StoreRecorder)
        self._ledger.store.left = _CALLS
        try:
            new = worker.claim(self._config.slots)
        except StorageError:
            return
        finally:
            self._ledger.store.left = None
        for attempt in new:
            step = attempt.resume_from.step if attempt.resume_from else 0
            self.running[attempt] = step
            self._history.starts.append(
                AttemptStart(
                    self.process.world.now,
                    self.process.name,
                    worker.lease.worker,
                    attempt_key(attempt),
                    step,
                    attempt.isolated,
                    len(self.running) - 1,
                )
            )

    def _step(self, attempt: Attempt) -> None:
        if attempt.stop_reason:
            self._leave(attempt, attempt.abandon)
            return
        work = attempt.item.work
        if work["script"] == "poison":
            self.process.world.crash(self.process)
        self.running[attempt] += 1
        step = self.running[attempt]
        attempt.report_progress({"step": step})
        if work["script"] == "bad":
            self._finish(attempt, lambda: attempt.fail("its images are broken", retry=False))
        elif work["script"] == "flaky" and attempt.number == 1:
            self._finish(attempt, lambda: attempt.fail("out of memory"))
        elif step >= int(str(work["steps"])):
            payload = secret(attempt.keys.job, attempt.item_ref.index) + b"%d" % attempt.number
            self._finish(attempt, lambda: attempt.succeed(payload, {"steps": step}))
        elif step % int(str(work["every"])) == 0:
            self._save(attempt, step)

    def _save(self, attempt: Attempt, step: int) -> None:
        payload = secret(attempt.keys.job, attempt.item_ref.index) + b"%d" % step
        try:
            attempt.checkpoint(step, payload)
        except (LeaseLostError, SupersededError):
            self._leave(attempt, attempt.abandon)
        except StorageError:
            return
        else:
            _, _, item_ref, _ = attempt_key(attempt)
            self._history.checkpoints[attempt.keys.tenant, attempt.keys.job, item_ref].append(
                SavedCheckpoint(self.process.world.now, attempt_key(attempt), step)
            )

    def _finish(self, attempt: Attempt, end: Callable[[], None]) -> None:
        for _ in range(_COMMIT_TRIES):
            try:
                end()
                break
            except SupersededError:
                break
            except StorageError:
                self.process.sleep(1)
        else:
            self._leave(attempt, attempt.abandon)
        self.running.pop(attempt, None)

    def _leave(self, attempt: Attempt, end: Callable[[], None]) -> None:
        self.running.pop(attempt, None)
        try:
            end()
        except StorageError:
            return

    def _drain(self, worker: WorkerSession) -> None:
        for attempt in list(self.running):
            self._leave(attempt, lambda attempt=attempt: attempt.release("drained"))
        try:
            worker.end()
        except (LeaseLostError, StorageError):
            return


def secret(job: str, index: int) -> bytes:
    """Return what is in all bytes made of an item, and must be gone after its deletion."""
    return f"secret of {job} {index}: ".encode()
