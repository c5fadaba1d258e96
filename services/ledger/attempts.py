"""One attempt at one item by the worker that claimed it.

An attempt ends in one of three ways: it commits the item's result, which is created once and for
all (the *exactly-once commit*); it ends without a result, so that another may follow; or the
supervisor ends it because its worker's lease has expired. None of them can undo what another
attempt has achieved.
"""

import hashlib
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from services import logs
from services.contracts.jobs import JobItem, Kind
from services.errors import LeaseLostError, StorageError, SupersededError
from services.ledger.checkpoints import Checkpoint, Checkpoints
from services.ledger.item_results import count_failures, end_attempt
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.leases import Lease
from services.ledger.ledger import Ledger
from services.ledger.records import (
    EndedRecord,
    HeldAttempt,
    ResultRecord,
    Tombstone,
    pack,
    shorten_reason,
    unpack_result,
)

StopReason = Literal["cancelled", "deleted", "lost"]


@dataclass(eq=False)
class Attempt:
    """An attempt, and the ways to end it. Every one of them is safe to call again."""

    ledger: Ledger
    lease: Lease
    keys: JobKeys
    item_ref: ItemRef
    number: int
    """The fencing number: each claim of an item gets the next one, and no number comes twice."""
    item: JobItem
    shared: dict[str, JsonValue]
    max_attempts: int
    isolated: bool
    """Whether the worker must do nothing else beside it. The item is suspected of killing its
    workers, or of breaking its batches: alone, any failure is its own.
    """
    earlier_ends: tuple[EndedRecord, ...]
    """How the attempts before it ended."""
    resume_from: Checkpoint | None
    """The latest checkpoint of the attempts before it."""
    kind: Kind = "training"
    """The kind of the job."""
    stop_reason: StopReason | None = None
    """Why the worker has to stop; it then calls `abandon`."""
    _checkpoints: Checkpoints = field(init=False)

    def __post_init__(self) -> None:
        self._checkpoints = Checkpoints(self.ledger, self.keys, self.item_ref, self.number)

    @property
    def held(self) -> HeldAttempt:
        """This attempt as the worker's lease names it."""
        return HeldAttempt(
            tenant=self.keys.tenant,
            job=self.keys.job,
            round=self.item_ref.round,
            index=self.item_ref.index,
            number=self.number,
        )

    def log_context(self) -> AbstractContextManager[None]:
        """Bind the ids of the attempt to the lines that are logged within."""
        return logs.bound(job=self.keys.job, item=str(self.item_ref.index))

    def report_progress(self, progress: dict[str, JsonValue]) -> None:
        """Publish progress with the next renewal of the lease.

        Raises:
            ValueError: The progress cannot be written as JSON.
        """
        self.lease.report_progress(self.held, progress)

    def checkpoint(self, step: int, payload: bytes) -> None:
        """Save the training state, so that another worker can resume from it.

        Raises:
            LeaseLostError: The worker's lease was broken.
            SupersededError: The item was ended by another process.
            UnavailableError: The store did not answer; the previous checkpoint stands.
        """
        # This saves a write, and protects nothing: a lease can be lost unnoticed. A zombie does no
        # harm, since the key of its checkpoint contains its fencing number.
        if self.lease.lost:
            raise LeaseLostError(
                f"the lease of worker {self.lease.worker} was broken: leave its attempts to others"
            )
        self._checkpoints.save(step, payload)

    def succeed(self, payload: bytes, report: dict[str, JsonValue] | None = None) -> None:
        """Commit `payload` as the item's result. Once this returns, it stands until deleted.

        A worker whose lease was broken may still commit: the result is created once, so that
        whichever attempt is first wins, and nothing is gained by refusing finished work.

        Raises:
            ValueError: `report` cannot be written as JSON, or contains a NaN or an infinity.
            SupersededError: The item has ended otherwise.
            UnavailableError: The store did not answer: call it again.
        """
        self._commit(
            ResultRecord(
                nonce=self._new_nonce(),
                status="succeeded",
                kind=self.kind,
                attempt=self.number,
                sha256=hashlib.sha256(payload).hexdigest(),
                report=report or {},
            ),
            payload,
        )

    def fail(self, reason: str, *, retry: bool = True) -> None:
        """End the attempt as failed, and with it the item if no attempts are left.

        Args:
            reason: What went wrong.
            retry: Whether another attempt may succeed; False ends the item at once.

        Raises:
            SupersededError: The item has ended otherwise.
            UnavailableError: The store did not answer: call it again.
        """
        # What was read before the claim is complete: every attempt with a lower number had ended by
        # then, and ends never change.
        failures = count_failures(self.earlier_ends) + 1
        if retry and failures < self.max_attempts:
            self._end("failed", reason)
        else:
            self._commit(
                ResultRecord(
                    nonce=self._new_nonce(),
                    status="failed",
                    attempt=self.number,
                    reason=shorten_reason(reason),
                )
            )

    def release(self, reason: str) -> None:
        """Give the item back for another worker to claim at once. It counts as no failure."""
        self._end("released", reason)

    def abandon(self) -> None:
        """End the attempt as `stop_reason` requires."""
        try:
            if self.stop_reason == "cancelled":
                with suppress(SupersededError):
                    self._commit(
                        ResultRecord(
                            nonce=self._new_nonce(), status="cancelled", attempt=self.number
                        )
                    )
            # A lost attempt writes nothing: others decide about its item.
            elif self.stop_reason == "deleted":
                self._end("released", "deleted")
                self._checkpoints.remove()
        finally:
            # If that failed, the supervisor ends the attempt: it finds that no lease names it.
            self.lease.remove_attempt(self.held)

    def _new_nonce(self) -> str:
        # Begins with the worker, so that a repeated commit recognises the result of the first.
        return f"{self.lease.worker}.{self.ledger.ids.nonce()}"

    def _commit(self, record: ResultRecord, payload: bytes = b"") -> None:
        key = self.keys.result(self.item_ref)
        # One object holds the result and its payload: that it was made, and what was made, are a
        # single write, which cannot be applied by half.
        if not self.ledger.create_once(key, pack(record, payload)):
            self._check_winner(key, record)
        self.lease.remove_attempt(self.held)
        # The result stands; checkpoints that cannot be removed now are removed by a sweep.
        with suppress(StorageError):
            self._checkpoints.remove()

    def _check_winner(self, key: str, ours: ResultRecord) -> None:
        """Return if an earlier call of this attempt won; raise SupersededError if another did."""
        found = self.ledger.find_record(key)
        stored = unpack_result(key, found[1])[0] if found else None
        if isinstance(stored, ResultRecord) and _same_commit(stored, ours):
            return
        self.lease.remove_attempt(self.held)
        # The winner removed the checkpoints that it saw; this one may have been written later.
        with suppress(StorageError):
            self._checkpoints.remove()
        status = "deleted" if stored is None or isinstance(stored, Tombstone) else stored.status
        raise SupersededError(
            f"item {self.item.name!r} of job {self.keys.job} has ended as {status}, by another "
            "process"
        )

    def _end(self, cause: Literal["failed", "released"], reason: str) -> None:
        end_attempt(self.ledger, self.keys, self.item_ref, self.number, cause, reason)
        self.lease.remove_attempt(self.held)


def _same_commit(stored: ResultRecord, ours: ResultRecord) -> bool:
    """Return whether two results are commits of one attempt: nonces begin with the worker."""
    return (stored.nonce.partition(".")[0], stored.attempt, stored.status, stored.sha256) == (
        ours.nonce.partition(".")[0],
        ours.attempt,
        ours.status,
        ours.sha256,
    )
