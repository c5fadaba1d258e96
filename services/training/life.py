"""One life of a worker: from the first claim until it is drained, or its lease is lost.

Four threads: this one owns the device; `Intake` claims and loads ahead; `Outbox` writes; the
heartbeat keeps the lease. None of them waits for another's requests.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from dti_engine.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from dti_engine.reports import SlotReport
from services import aliases
from services.ledger.attempts import Attempt
from services.ledger.heartbeat import Heartbeat
from services.ledger.ids import token_id
from services.ledger.ledger import Ledger
from services.ledger.outbox import Outbox
from services.ledger.worker import Worker
from services.subjects import batch_of
from services.training.batch import Batch, DeviceError, Ended, OutOfMemoryError, Seat
from services.training.companions import Companions
from services.training.events import Events
from services.training.intake import Intake
from services.training.preparation import Prepared
from services.training.results import report
from services.training.trials import Trials

_IDLE = 0.5  # seconds between looks at what was asked for, while nothing is at work
_NEARLY = 0.8  # of its steps, after which a subject's successor is loaded


@dataclass(frozen=True)
class Patience:
    """How long a worker waits for what, in seconds."""

    checkpoint: float = 30
    """Between two checkpoints of a subject: what is lost when the worker is killed."""
    other_shapes: float = 300
    """Until a job whose subjects do not fit beside those in hand gets a turn."""
    tell: float = 1
    """Between two tellings of progress; they are written with the lease."""


class Life:
    """For one thread. `shrunk` has, by shape, the slots that were left when memory ran out; it is
    written here, and read by the lives that follow.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        backbone: Backbone,
        trials: Trials,
        *,
        num_slots: int,
        shrunk: dict[str, int],
        patience: Patience,
        events: Events,
        draining: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        companions = Companions(patience.other_shapes, clock)
        self.num_slots = self._most_slots = num_slots
        self._shrunk = shrunk
        self._worker = Worker(ledger, pool, companions.accepts)
        self._store, self._backbone, self._trials = ledger.store, backbone, trials
        self._patience, self._events, self._clock = patience, events, clock
        self._draining, self._something = draining, threading.Event()
        # Only what is written is in hand no more, so that there is room.
        self._outbox = Outbox(events.unwritten, lambda: self._intake.look_again())
        self._intake = Intake(
            self._worker,
            ledger.store,
            self._outbox,
            companions,
            capacity=num_slots,
            pause=ledger.settings.look,
            on_ready=self._something.set,
            on_refused=events.refused,
            on_trouble=events.trouble,
        )
        self._batch: Batch | None = None
        self._told = clock()

    @property
    def in_hand(self) -> int:
        """Attempts that are not over."""
        return len(self._worker.in_hand)

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
                    self._events.broke(error)
                self._intake.stop()
                self._give_back(keep=broken is None)
            self._release_ready()
        if self._worker.lease.lost:
            self._events.lease_lost(self._worker.lease.worker)
        else:
            self._worker.end()
        if isinstance(broken, DeviceError):
            raise broken

    def _turn(self) -> None:
        self._drop_stopped()
        self._fill()
        if not (self._batch and self._batch.seats):
            self._events.idle(self.num_slots)
            self._something.wait(_IDLE)
            self._something.clear()
            return
        began = self._clock()
        try:
            ended = self._batch.step()
        except OutOfMemoryError as error:
            self._shrink(error)
            return
        used = len(self._batch.seats) + len(ended)
        self._events.stepped(self._clock() - began, used, self.num_slots)
        self._settle(ended)
        self._tell()
        self._keep()

    def _seats(self) -> list[Seat]:
        return list(self._batch.seats.values()) if self._batch else []

    def _drop_stopped(self) -> None:
        for seat in self._seats():
            if seat.prepared.attempt.stop:
                assert self._batch
                self._batch.vacate(seat)
                self._abandon(seat.prepared.attempt)

    def _abandon(self, attempt: Attempt) -> None:
        self._events.ended(attempt, "stopped", attempt.stop or "")
        self._outbox.send(attempt, attempt.abandon)

    def _fill(self) -> None:
        while self._batch is None or self._batch.has_room or not self._batch.seats:
            try:
                prepared = self._intake.ready.get_nowait()
            except queue.Empty:
                return
            if prepared.attempt.stop:
                self._abandon(prepared.attempt)
                continue
            try:
                batch = self._batch_for(prepared)
                if batch is None:
                    self._release(prepared.attempt, "its worker is at subjects of another shape")
                    continue
                seat = batch.seat(prepared)
            except DTIError as error:
                self._events.refused(prepared.attempt, error)
                self._outbox.send(
                    prepared.attempt, partial(prepared.attempt.fail, str(error), retry=False)
                )
            except DeviceError as error:
                self._release(prepared.attempt, str(error))
                raise
            except Exception as error:
                # Another worker may do better; its last attempt is alone, with all the memory.
                said = f"it could not be begun: {type(error).__name__}: {error}"[:500]
                self._fail(prepared.attempt, RuntimeError(said), retry=True)
            else:
                self._events.seated(prepared.attempt, seat.resumed_at)

    def _batch_for(self, prepared: Prepared) -> Batch | None:
        """One of its shape; None if others are seated, which is as good as never: `companions`."""
        batch, shape = self._batch, batch_of(prepared.config)
        if batch is None or batch_of(batch.config) != shape:
            if self._seats():
                return None
            slots = self._shrunk.get(shape, self._most_slots)
            self._batch = batch = Batch(self._backbone, prepared.config, slots, self._clock)
            self.num_slots = self._intake.capacity = slots
        return batch

    def _settle(self, ended: Sequence[Ended]) -> None:
        learned: list[tuple[Seat, Artifact, SlotReport]] = []
        for each in ended:
            attempt = each.seat.prepared.attempt
            if attempt.stop:
                self._abandon(attempt)
            elif each.artifact is None or each.report is None:
                error = each.error or RuntimeError("it ended without a word")
                self._fail(attempt, error, retry=each.can_be_retried)
            else:
                steps = each.report.step
                attempt.tell({"phase": "trying", "step": steps, "steps": steps})
                learned.append((each.seat, each.artifact, each.report))
        if not learned:
            return
        tried = self._trials.tried([(seat, artifact) for seat, artifact, _ in learned])
        for (seat, _, last), artifact in zip(learned, tried, strict=True):
            self._commit(seat, artifact, last)

    def _commit(self, seat: Seat, artifact: Artifact, last: SlotReport) -> None:
        attempt, payload = seat.prepared.attempt, artifact.to_bytes()
        said = report(seat, artifact, last)
        keys, place = attempt.keys, attempt.place
        token = token_id(keys.job, place.round, place.index)

        def write() -> None:
            # Before the token is there: one that nobody finds by its alias would be lost to many.
            aliases.note(self._store, keys.tenant, attempt.item.name, token)
            attempt.succeed(payload, said)
            self._events.ended(attempt, "succeeded")

        self._outbox.send(attempt, write)

    def _fail(self, attempt: Attempt, error: Exception, *, retry: bool) -> None:
        self._events.ended(attempt, "failed", str(error))
        self._outbox.send(attempt, partial(attempt.fail, str(error), retry=retry))

    def _release(self, attempt: Attempt, reason: str) -> None:
        self._events.ended(attempt, "released", reason)
        self._outbox.send(attempt, partial(attempt.release, reason))

    def _tell(self) -> None:
        if self._clock() - self._told < self._patience.tell or self._batch is None:
            return
        self._told = self._clock()
        nearly = 0
        for seat in self._seats():
            step, steps, loss = self._batch.progress(seat)
            nearly += step >= _NEARLY * steps
            seat.prepared.attempt.tell(
                {"phase": "training", "step": step, "steps": steps, "loss": loss}
            )
        # Not sooner: what waits here could begin at once elsewhere.
        self._intake.capacity = self.num_slots + nearly
        self._intake.look_again()

    def _keep(self) -> None:
        """Checkpoints of those whose last one is old."""
        now, every = self._clock(), self._patience.checkpoint
        if any(now - seat.kept_at > every for seat in self._seats()):
            self._checkpoint_all(older_than=every)

    def _checkpoint_all(self, older_than: float = 0) -> None:
        if self._batch is None:
            return
        self._settle(self._batch.collect())
        for seat in self._seats():
            due = self._clock() - seat.kept_at >= older_than
            if due and (kept := self._batch.checkpoint(seat)):
                attempt = seat.prepared.attempt
                self._outbox.send(attempt, partial(attempt.checkpoint, *kept), insist=False)

    def _shrink(self, error: Exception) -> None:
        """Go on with half the slots. Those who are seated go on elsewhere, or here, once more."""
        reason = f"memory ran out with {self.num_slots} subjects at a time: {error}"
        with suppress(Exception):  # of a step that ended half-way
            self._checkpoint_all()
        for seat in self._seats():
            assert self._batch
            self._batch.vacate(seat)
            if self.num_slots > 1:
                self._release(seat.prepared.attempt, reason)
            else:
                self._fail(seat.prepared.attempt, error, retry=True)
        assert self._batch
        self.num_slots = max(1, self.num_slots // 2)
        self._shrunk[batch_of(self._batch.config)] = self.num_slots
        self._batch = None
        self._intake.capacity = self.num_slots
        self._events.shrunk(self.num_slots)

    def _give_back(self, *, keep: bool) -> None:
        """What is seated, with checkpoints if it can be kept: others go on with it at once."""
        if keep:
            self._drop_stopped()
            with suppress(Exception):  # what was kept before has to do
                self._checkpoint_all()
        for seat in self._seats():
            self._release(seat.prepared.attempt, "its worker was drained, or broke")
        self._batch = None

    def _release_ready(self) -> None:
        """What waits for a slot."""
        while not self._intake.ready.empty():
            attempt = self._intake.ready.get().attempt
            if attempt.stop:
                self._abandon(attempt)
            else:
                self._release(attempt, "its worker was drained")
