"""Slot scheduler: which subjects a worker trains in which slots, fairly among tenants.

It owns the batch on the device. All of it belongs to one thread, and nothing in it waits for the
store: the prefetcher loads ahead, and the outbox writes.
"""

import queue
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError
from services import logs
from services.contracts.training import batch_of
from services.ledger.outbox import Outbox
from services.settings import WorkerTimeouts
from services.training.batch import (
    BatchError,
    DeviceError,
    OutOfMemoryError,
    PackedBatch,
    WorkerSlot,
    count_slots,
    may_preempt,
)
from services.training.commits import ResultCommitter
from services.training.loader import LoadedSubject
from services.training.metrics import WorkerMetrics
from services.training.prefetch import Prefetcher

log = logs.logger(__name__)

_NEARLY_DONE = 0.8  # share of a subject's steps after which its successor is prefetched


class SlotScheduler:
    """Gives slots to subjects, trains them, and hands on what has finished."""

    def __init__(
        self,
        backbone: Backbone,
        prefetcher: Prefetcher,
        outbox: Outbox,
        commits: ResultCommitter,
        metrics: WorkerMetrics,
        timeouts: WorkerTimeouts,
        *,
        num_slots: int,
        reduced_slots: dict[str, int],
        on_progress: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without subjects.

        num_slots: of a worker whose memory has not run out.
        reduced_slots: by batch shape, the slots that were left when memory ran out; written
            here, and read by later sessions.
        on_progress: called whenever the device has made progress.
        """
        self.num_slots = self._max_slots = num_slots
        self._backbone, self._prefetcher, self._outbox = backbone, prefetcher, outbox
        self._commits, self._metrics, self._timeouts = commits, metrics, timeouts
        self._reduced_slots = reduced_slots
        self._on_progress, self._clock = on_progress, clock
        self._batch: PackedBatch | None = None
        self._waiting: list[LoadedSubject] = []
        """Loaded subjects that have never had a slot."""
        self._progress_reported_at = clock()

    @property
    def is_busy(self) -> bool:
        """Return whether any slot is in use."""
        return self._batch is not None and bool(self._batch.slots)

    def step(self) -> None:
        """Train for one step, commit what has finished, and checkpoint what is due.

        Raises: DeviceError; any other error that belongs to no subject.
        """
        assert self._batch
        began = self._clock()
        try:
            finished = self._batch.step()
        except OutOfMemoryError as error:
            self._reduce_slots(error)
            return
        self._on_progress()
        used = len(self._batch.slots) + len(finished)
        self._metrics.stepped(self._clock() - began, used, self.num_slots)
        self._commits.finish(finished)
        self._report_progress()
        self._checkpoint_due()

    def drop_stopped(self) -> None:
        """Abandon the attempts that have to stop: cancelled, deleted, or lost to other workers."""
        for slot in self._slots():
            if slot.attempt.stop_reason:
                assert self._batch
                self._batch.remove(slot)
                self._commits.abandon(slot.attempt)

    def fill(self) -> None:
        """Give waiting subjects free slots, and slots of tenants with more than their share.

        Raises: DeviceError.
        """
        self._take_ready()
        while subject := self._next():
            self._give_slot(subject)
        some_wait = self._waiting or not self._prefetcher.ready.empty()
        # Beyond its capacity the prefetcher claims for a tenant that may preempt one of these.
        slots = self._batch.slots.values() if self._batch and not some_wait else ()
        self._prefetcher.slots = count_slots(slots)

    def give_back(self, failure: Exception | None) -> None:
        """Release all subjects that have begun; if nothing failed, with new checkpoints."""
        if failure is None:
            self.drop_stopped()
            self._try_checkpoints()
        for slot in self._slots():
            if failure:
                reason = f"its worker failed: {failure}"
                self._commits.release_or_fail(slot.attempt, failure, reason)
            else:
                self._commits.release(slot.attempt, "its worker was drained")
        self._batch = None

    def release_waiting(self) -> None:
        """Release the subjects that have never had a slot."""
        self._take_ready()
        for loaded in self._waiting:
            self._commits.release(loaded.attempt, "its worker was drained")

    def _slots(self) -> list[WorkerSlot]:
        """Return all subjects that have begun, in a slot or preempted."""
        return [*self._batch.slots.values(), *self._batch.preempted] if self._batch else []

    def _take_ready(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._waiting.append(self._prefetcher.ready.get_nowait())
        for loaded in [each for each in self._waiting if each.attempt.stop_reason]:
            self._waiting.remove(loaded)
            self._commits.abandon(loaded.attempt)

    def _next(self) -> WorkerSlot | LoadedSubject | None:
        """Return the subject that gets the next slot, or None; preempt another if that is fair.

        It is a subject of the tenant with the fewest slots, and of those the one that has waited
        longest.
        """
        batch = self._batch
        candidates = [*(batch.preempted if batch else ()), *self._waiting]
        if not candidates or batch is None or not batch.slots:
            return candidates[0] if candidates else None
        slots = count_slots(batch.slots.values())
        subject = min(candidates, key=lambda each: slots[each.tenant])
        if not batch.has_room and may_preempt(slots[subject.tenant], slots):
            # Reading from the device may show that a subject has finished: then there is room.
            self._commits.finish(batch.flush())
            if not batch.has_room:
                self._preempt(batch, slots)
        return subject if batch.has_room else None

    def _preempt(self, batch: PackedBatch, slots: Counter[str]) -> None:
        """Preempt a subject of the tenant with most slots: the one that has most left to do."""

        def share_done(slot: WorkerSlot) -> float:
            step, steps, _ = batch.progress(slot)
            return step / steps

        max_slots = max(slots.values())
        slot = min(
            (each for each in batch.slots.values() if slots[each.tenant] == max_slots),
            key=share_done,
        )
        step, steps, _ = batch.progress(slot)
        batch.preempt(slot)
        # The worker still holds it, and it must not keep another subject from being claimed.
        self._prefetcher.capacity += 1
        slot.attempt.report_progress({"phase": "waiting", "step": step, "steps": steps})
        self._metrics.subject_preempted(slot.attempt)

    def _give_slot(self, subject: WorkerSlot | LoadedSubject) -> None:
        self._on_progress()
        try:
            if isinstance(subject, WorkerSlot):
                assert self._batch
                self._prefetcher.capacity -= 1
                self._batch.resume(subject)
                slot = subject
            else:
                self._waiting.remove(subject)
                if (batch := self._batch_for(subject)) is None:
                    reason = "its worker trains subjects of another batch shape"
                    self._commits.release(subject.attempt, reason)
                    return
                slot = batch.add(subject)
        except DTIError as error:
            self._commits.reject(subject.attempt, error)
        except DeviceError as error:
            self._commits.release_or_fail(subject.attempt, error)
            raise
        except BatchError as error:
            # Another worker may succeed: the last attempt is isolated, and has all the memory.
            with subject.attempt.log_context():
                log.exception("subject could not be started")
            reason = f"it could not be started: {error.reason}"
            self._commits.fail(subject.attempt, RuntimeError(reason), retry=True)
        else:
            self._metrics.subject_started(subject.attempt, slot.resumed_at)

    def _batch_for(self, loaded: LoadedSubject) -> PackedBatch | None:
        """Return a batch of the subject's shape; None if others of another shape have begun.

        The latter hardly happens, since `BatchAffinity` claims one shape at a time.
        """
        batch, shape = self._batch, batch_of(loaded.config)
        if batch is None or batch_of(batch.config) != shape:
            if self._slots():
                return None
            slots = self._reduced_slots.get(shape, self._max_slots)
            self._batch = batch = PackedBatch(self._backbone, loaded.config, slots, self._clock)
            self.num_slots = self._prefetcher.capacity = slots
        return batch

    def _report_progress(self) -> None:
        now = self._clock()
        if now - self._progress_reported_at < self._timeouts.progress_interval_s:
            return
        assert self._batch
        self._progress_reported_at = now
        nearly_done = 0
        for slot in self._batch.slots.values():
            step, steps, loss = self._batch.progress(slot)
            nearly_done += step >= _NEARLY_DONE * steps
            slot.attempt.report_progress(
                {"phase": "training", "step": step, "steps": steps, "loss": loss}
            )
        # Not earlier: what waits here could begin at once in another worker.
        self._prefetcher.capacity = self.num_slots + nearly_done + len(self._batch.preempted)
        self._prefetcher.wake()

    def _checkpoint_due(self) -> None:
        now, interval_s = self._clock(), self._timeouts.checkpoint_interval_s
        if any(now - slot.checkpointed_at > interval_s for slot in self._slots()):
            self._checkpoint(older_than_s=interval_s)

    def _checkpoint(self, older_than_s: float = 0) -> None:
        """Checkpoint all subjects whose latest checkpoint is so old."""
        if self._batch is None:
            return
        self._commits.finish(self._batch.flush())
        for slot in self._slots():
            is_due = self._clock() - slot.checkpointed_at >= older_than_s
            if is_due and (state := self._batch.checkpoint(slot)):
                attempt = slot.attempt
                # Not repeated if it fails: the next one will be newer.
                self._outbox.send(attempt, partial(attempt.checkpoint, *state), until_written=False)

    def _try_checkpoints(self) -> None:
        try:
            self._checkpoint()
        except BatchError:
            # The attempts are given back all the same, and resume from their earlier checkpoints.
            log.exception("checkpoints could not be taken")

    def _reduce_slots(self, error: Exception) -> None:
        """Go on with half the slots; the subjects in training resume here or elsewhere."""
        assert self._batch
        reason = f"memory ran out with {self.num_slots} subjects at a time: {error}"
        self._try_checkpoints()
        for slot in self._slots():
            self._batch.remove(slot)
            # In a smaller batch it may fit, so that it costs no attempt. With one slot there is no
            # smaller batch: it must not be tried for ever.
            if self.num_slots > 1:
                self._commits.release_or_fail(slot.attempt, error, reason)
            else:
                self._commits.fail(slot.attempt, error, retry=True)
        self.num_slots = max(1, self.num_slots // 2)
        self._reduced_slots[batch_of(self._batch.config)] = self.num_slots
        # A new batch is made with the next subject; only dropping this one frees its memory.
        self._batch = None
        self._prefetcher.capacity = self.num_slots
        self._metrics.slots_reduced(self.num_slots)
