"""One life of a worker: from the first claim until it is drained, or its lease is lost.

Four threads: this one owns the device; `Prefetcher` claims and loads ahead; `Outbox` writes; the
heartbeat keeps the lease. None of them waits for another's requests.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from dti_engine.training.metrics import StepMetrics
from services.contracts.training import batch_of
from services.ledger.ledger import Ledger
from services.ledger.outbox import Outbox
from services.ledger.worker import Heartbeat, WorkerSession
from services.settings import WorkerTimeouts
from services.training.batch import (
    DeviceError,
    FinishedSlot,
    OutOfMemoryError,
    PackedBatch,
    WorkerSlot,
    is_owed,
    slots_of,
)
from services.training.commits import ResultCommitter
from services.training.loader import LoadedSubject
from services.training.metrics import Events
from services.training.prefetch import BatchAffinity, Prefetcher
from services.training.validation import ValidationRunner

_IDLE = 0.5  # seconds between looks at what was asked for, while nothing is at work
_NEARLY = 0.8  # of its steps, after which a subject's successor is loaded


class TrainingSession:
    """For one thread. `shrunk` has, by shape, the slots that were left when memory ran out; it is
    written here, and read by the lives that follow.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        backbone: Backbone,
        trials: ValidationRunner,
        *,
        num_slots: int,
        shrunk: dict[str, int],
        timeouts: WorkerTimeouts,
        metrics: Events,
        draining: threading.Event,
        moved: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """moved: called whenever the device has come back."""
        companions = BatchAffinity(timeouts.batch_affinity_s, clock)
        self.num_slots = self._most_slots = num_slots
        self._shrunk = shrunk
        self._worker = WorkerSession(ledger, pool, companions.accepts)
        self._backbone, self._trials = backbone, trials
        self._timeouts, self._metrics, self._clock = timeouts, metrics, clock
        self._draining, self._moved, self._something = draining, moved, threading.Event()
        # Only what is written is in hand no more, so that there is room.
        self._outbox = Outbox(
            metrics.unwritten, lambda: self._intake.look_again(), timeouts.flush_timeout_s
        )
        self._endings = ResultCommitter(ledger.store, self._outbox, metrics)
        self._intake = Prefetcher(
            self._worker,
            ledger.store,
            self._outbox,
            companions,
            capacity=num_slots,
            pause=ledger.settings.poll_interval_s,
            patience=timeouts.flush_timeout_s,
            on_ready=self._something.set,
            on_refused=metrics.refused,
            on_trouble=metrics.trouble,
        )
        self._batch: PackedBatch | None = None
        self._waiting: list[LoadedSubject] = []
        """Ready, and without a slot."""
        self._told = clock()

    @property
    def in_hand(self) -> int:
        """Attempts that are not over."""
        return len(self._worker.attempts)

    def forsake(self) -> None:
        """Leave all that is in hand to others, as if this process had been killed. From any thread.

        Raises: UnavailableError.
        """
        self._worker.lease.abandon_lease()

    def run(self) -> None:
        """Work until drained, until the lease is lost, or until something breaks that is nobody's.

        Raises: ServiceError if it cannot begin, or cannot end, which harms nobody; DeviceError if
        nothing more can be done in this process.
        """
        self._worker.begin()
        broken: Exception | None = None
        # Inside out: what is written last still needs the lease.
        with Heartbeat(self._worker), self._outbox:
            with self._intake:
                try:
                    while not self._draining.is_set() and not self._worker.lease.lost:
                        self._turn()
                except Exception as error:
                    # Nobody's fault that is known: everybody goes on elsewhere, from where they
                    # were kept last.
                    broken = error
                    self._metrics.broke(error)
                self._intake.stop()
                self._give_back(broken)
            self._release_ready()
        if self._worker.lease.lost:
            self._metrics.lease_lost(self._worker.lease.worker)
        else:
            self._worker.end()
        if isinstance(broken, DeviceError):
            raise broken

    def _turn(self) -> None:
        self._moved()
        self._drop_stopped()
        self._fill()
        if not (self._batch and self._batch.seats):
            self._metrics.idle(self.num_slots)
            self._something.wait(_IDLE)
            self._something.clear()
            return
        began = self._clock()
        try:
            ended = self._batch.step()
        except OutOfMemoryError as error:
            self._shrink(error)
            return
        self._moved()
        used = len(self._batch.seats) + len(ended)
        self._metrics.stepped(self._clock() - began, used, self.num_slots)
        self._settle(ended)
        self._tell()
        self._keep()

    def _seats(self) -> list[WorkerSlot]:
        """Of all who have begun, with a slot or aside."""
        return [*self._batch.seats.values(), *self._batch.aside] if self._batch else []

    def _drop_stopped(self) -> None:
        for seat in self._seats():
            if seat.attempt.stop_reason:
                assert self._batch
                self._batch.vacate(seat)
                self._endings.abandon(seat.attempt)

    def _fill(self) -> None:
        self._take_ready()
        while one := self._next():
            self._give_slot(one)
        some_wait = self._waiting or not self._intake.ready.empty()
        seats = self._batch.seats.values() if self._batch and not some_wait else ()
        self._intake.slots = slots_of(seats)

    def _take_ready(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._waiting.append(self._intake.ready.get_nowait())
        for prepared in [each for each in self._waiting if each.attempt.stop_reason]:
            self._waiting.remove(prepared)
            self._endings.abandon(prepared.attempt)

    def _next(self) -> WorkerSlot | LoadedSubject | None:
        """Who gets a slot: whose tenant has the fewest, and of those who waits longest."""
        batch = self._batch
        wait = [*(batch.aside if batch else ()), *self._waiting]
        if not wait or batch is None or not batch.seats:
            return wait[0] if wait else None
        slots = slots_of(batch.seats.values())
        one = min(wait, key=lambda each: slots[each.tenant])
        if not batch.has_room and is_owed(slots[one.tenant], slots):
            self._settle(batch.collect())
            if not batch.has_room:
                self._set_aside(batch, slots)
        return one if batch.has_room else None

    def _set_aside(self, batch: PackedBatch, slots: Counter[str]) -> None:
        """Of those whose tenant has the most slots, whoever has the longest way to go."""

        def share_done(seat: WorkerSlot) -> float:
            step, steps, _ = batch.progress(seat)
            return step / steps

        most = max(slots.values())
        seat = min(
            (each for each in batch.seats.values() if slots[each.tenant] == most), key=share_done
        )
        step, steps, _ = batch.progress(seat)
        batch.set_aside(seat)
        self._intake.capacity += 1
        seat.attempt.report_progress({"phase": "waiting", "step": step, "steps": steps})
        self._metrics.set_aside(seat.attempt)

    def _give_slot(self, one: WorkerSlot | LoadedSubject) -> None:
        self._moved()
        try:
            if isinstance(one, WorkerSlot):
                assert self._batch
                self._intake.capacity -= 1
                self._batch.bring_back(one)
                seat = one
            else:
                self._waiting.remove(one)
                if (batch := self._batch_for(one)) is None:
                    self._endings.release(one.attempt, "its worker is at subjects of another shape")
                    return
                seat = batch.seat(one)
        except DTIError as error:
            self._endings.refuse(one.attempt, error)
        except DeviceError as error:
            self._endings.let_go(one.attempt, error)
            raise
        except Exception as error:
            # Another worker may do better; its last attempt is alone, with all the memory.
            said = f"it could not be begun: {type(error).__name__}: {error}"[:500]
            self._endings.fail(one.attempt, RuntimeError(said), retry=True)
        else:
            self._metrics.seated(one.attempt, seat.resumed_at)

    def _batch_for(self, prepared: LoadedSubject) -> PackedBatch | None:
        """One of its shape; None if others are seated, which is as good as never: `companions`."""
        batch, shape = self._batch, batch_of(prepared.config)
        if batch is None or batch_of(batch.config) != shape:
            if self._seats():
                return None
            slots = self._shrunk.get(shape, self._most_slots)
            self._batch = batch = PackedBatch(self._backbone, prepared.config, slots, self._clock)
            self.num_slots = self._intake.capacity = slots
        return batch

    def _settle(self, ended: Sequence[FinishedSlot]) -> None:
        learned: list[tuple[WorkerSlot, Artifact, StepMetrics]] = []
        for each in ended:
            attempt = each.seat.attempt
            if attempt.stop_reason:
                self._endings.abandon(attempt)
            elif each.artifact is None or each.report is None:
                error = each.error or RuntimeError("it ended without a word")
                self._endings.fail(attempt, error, retry=each.can_be_retried)
            else:
                steps = each.report.step
                attempt.report_progress({"phase": "trying", "step": steps, "steps": steps})
                learned.append((each.seat, each.artifact, each.report))
        if not learned:
            return
        tried = self._trials.tried(
            [(seat, artifact) for seat, artifact, _ in learned], on_step=self._moved
        )
        for (seat, _, last), artifact in zip(learned, tried, strict=True):
            self._endings.commit(seat, artifact, last)

    def _tell(self) -> None:
        if self._clock() - self._told < self._timeouts.progress_interval_s or self._batch is None:
            return
        self._told = self._clock()
        nearly = 0
        for seat in self._batch.seats.values():
            step, steps, loss = self._batch.progress(seat)
            nearly += step >= _NEARLY * steps
            seat.attempt.report_progress(
                {"phase": "training", "step": step, "steps": steps, "loss": loss}
            )
        # Not sooner: what waits here could begin at once elsewhere.
        self._intake.capacity = self.num_slots + nearly + len(self._batch.aside)
        self._intake.look_again()

    def _keep(self) -> None:
        """Checkpoints of those whose last one is old."""
        now, every = self._clock(), self._timeouts.checkpoint_interval_s
        if any(now - seat.kept_at > every for seat in self._seats()):
            self._checkpoint_all(older_than=every)

    def _checkpoint_all(self, older_than: float = 0) -> None:
        if self._batch is None:
            return
        self._settle(self._batch.collect())
        for seat in self._seats():
            due = self._clock() - seat.kept_at >= older_than
            if due and (kept := self._batch.checkpoint(seat)):
                attempt = seat.attempt
                self._outbox.send(attempt, partial(attempt.checkpoint, *kept), until_written=False)

    def _shrink(self, error: Exception) -> None:
        """Go on with half the slots. Those who are seated go on elsewhere, or here, once more."""
        reason = f"memory ran out with {self.num_slots} subjects at a time: {error}"
        with suppress(Exception):  # of a step that ended half-way
            self._checkpoint_all()
        for seat in self._seats():
            assert self._batch
            self._batch.vacate(seat)
            if self.num_slots > 1:
                self._endings.let_go(seat.attempt, error, reason)
            else:
                self._endings.fail(seat.attempt, error, retry=True)
        assert self._batch
        self.num_slots = max(1, self.num_slots // 2)
        self._shrunk[batch_of(self._batch.config)] = self.num_slots
        self._batch = None
        self._intake.capacity = self.num_slots
        self._metrics.shrunk(self.num_slots)

    def _give_back(self, broken: Exception | None) -> None:
        """What is seated, with checkpoints if nothing broke: others go on with it at once."""
        if broken is None:
            self._drop_stopped()
            with suppress(Exception):  # what was kept before has to do
                self._checkpoint_all()
        for seat in self._seats():
            if broken:
                self._endings.let_go(seat.attempt, broken, f"its worker broke: {broken}")
            else:
                self._endings.release(seat.attempt, "its worker was drained")
        self._batch = None

    def _release_ready(self) -> None:
        """What waits for a slot, and has not begun."""
        self._take_ready()
        for prepared in self._waiting:
            self._endings.release(prepared.attempt, "its worker was drained")
