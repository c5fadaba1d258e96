"""Workers of a simulated service: they step, keep checkpoints, commit, crash, pause and drain."""

from collections.abc import Callable
from dataclasses import dataclass

from chaos.simulation.history import History, Saved, Start, claimed
from chaos.simulation.process import Process
from chaos.simulation.recorder import Witness
from services.errors import LeaseLostError, StorageError, SupersededError
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.worker import WorkerSession

POOL = "default"
_CALLS = 400
"""Of the store, in one claim: many times what it takes."""

_PATIENCE = 5
"""Tries of a commit before it is left to others."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a worker works."""

    slots: int
    step: float
    """Seconds that one step of all in hand takes."""
    drains: float
    """Chance, a step, to give all back and begin anew, as on SIGTERM."""


class Labour:
    """One worker's process."""

    def __init__(
        self,
        process: Process,
        open_ledger: Callable[[Process], Ledger],
        history: History,
        habits: Habits,
    ) -> None:
        self.process = process
        self.running: dict[Attempt, int] = {}
        """Attempts that have begun, and the step they are at."""
        self._ledger = open_ledger(process)
        self._history = history
        self._habits = habits

    def run(self) -> None:
        """Live one life after another."""
        while True:
            worker = WorkerSession(self._ledger, POOL, rng=self.process.world.random)
            try:
                worker.begin()
            except (LeaseLostError, StorageError):
                self.process.sleep(1)
                continue
            beats = [True]
            self.process.spawn(lambda worker=worker, beats=beats: self._beat(worker, beats), "beat")
            self._live(worker)
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

    def _live(self, worker: WorkerSession) -> None:
        """Until the lease is lost, or the worker drains."""
        while True:
            if not worker.lease.lost:
                self._take(worker)
            if worker.lease.lost and not self.running:
                return
            if self.process.world.random.random() < self._habits.drains:
                self._drain(worker)
                return
            if not self.running:
                self.process.sleep(max(self._ledger.settings.poll_interval_s, 1.0))
                continue
            self.process.sleep(self._habits.step)
            for attempt in list(self.running):
                self._step(attempt)

    def _take(self, worker: WorkerSession) -> None:
        assert isinstance(self._ledger.store, Witness)
        self._ledger.store.left = _CALLS
        try:
            new = worker.claim(self._habits.slots)
        except StorageError:
            return
        finally:
            self._ledger.store.left = None
        for attempt in new:
            step = attempt.resume_from.step if attempt.resume_from else 0
            self.running[attempt] = step
            self._history.starts.append(
                Start(
                    self.process.world.now,
                    self.process.name,
                    worker.lease.worker,
                    claimed(attempt),
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
        if work["fate"] == "poison":
            self.process.world.crash(self.process)
        self.running[attempt] += 1
        step = self.running[attempt]
        attempt.report_progress({"step": step})
        if work["fate"] == "bad":
            self._finish(attempt, lambda: attempt.fail("its images are broken", retry=False))
        elif work["fate"] == "flaky" and attempt.number == 1:
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
            _, _, place, _ = claimed(attempt)
            self._history.saved[attempt.keys.tenant, attempt.keys.job, place].append(
                Saved(self.process.world.now, claimed(attempt), step)
            )

    def _finish(self, attempt: Attempt, end: Callable[[], None]) -> None:
        for _ in range(_PATIENCE):
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
    """What stands in all bytes that are made of an item, and must be gone when it is deleted."""
    return f"secret of {job} {index}: ".encode()
