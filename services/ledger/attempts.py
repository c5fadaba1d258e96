"""One attempt at one item, in the hands of the worker that claimed it.

It ends in one of three ways: with the item's result, which is created once and for all; as an
attempt that came to nothing, so that another may follow; or it is found to have been ended by
others, who hold the worker for dead. None of them can undo what another attempt has achieved.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from services.contracts.jobs import Item, Kind
from services.errors import LeaseLostError, StorageError, SupersededError
from services.ledger.checkpoints import Checkpoint, Checkpoints
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
from services.ledger.results import count_failures, end_attempt

StopReason = Literal["cancelled", "deleted", "lost"]


@dataclass(eq=False)
class Attempt:
    """What a worker does by itself, and the ways to end it. Every end is safe to call again."""

    ledger: Ledger
    lease: Lease
    keys: JobKeys
    item_ref: ItemRef
    number: int
    item: Item
    shared: dict[str, JsonValue]
    max_attempts: int
    isolated: bool
    """It may be what killed its workers, or broke what was beside it: do nothing else beside it.
    What would be nobody's fault otherwise is its own.
    """
    earlier_ends: tuple[EndedRecord, ...]
    """How the attempts before it ended."""
    resume_from: Checkpoint | None
    """Where they had got to."""
    kind: Kind = "training"
    """Of the job."""
    stop_reason: StopReason | None = None
    """Why to go on no longer: call `abandon`."""
    _checkpoints: Checkpoints = field(init=False)

    def __post_init__(self) -> None:
        self._checkpoints = Checkpoints(self.ledger, self.keys, self.item_ref, self.number)

    @property
    def held(self) -> HeldAttempt:
        """As the lease names it."""
        return HeldAttempt(
            tenant=self.keys.tenant,
            job=self.keys.job,
            round=self.item_ref.round,
            index=self.item_ref.index,
            number=self.number,
        )

    def report_progress(self, progress: dict[str, JsonValue]) -> None:
        """Progress, for whoever looks; written with the next renewal of the lease.

        Raises: ValueError if it is no JSON.
        """
        self.lease.report_progress(self.held, progress)

    def checkpoint(self, step: int, payload: bytes) -> None:
        """Keep where it has got to, so that another worker can go on from there.

        Raises: LeaseLostError; SupersededError if the item has ended by another hand;
        UnavailableError: the one before it stands.
        """
        if self.lease.lost:
            raise LeaseLostError(
                f"worker {self.lease.worker} is held for dead: leave its attempts to others"
            )
        self._checkpoints.save(step, payload)

    def succeed(self, payload: bytes, report: dict[str, JsonValue] | None = None) -> None:
        """Make `payload` the item's result. When it returns, that holds until it is deleted.

        Raises: ValueError if `report` is no JSON, or has a number that is none. SupersededError if
        the item has ended otherwise. UnavailableError: call it again.
        """
        self._commit(
            ResultRecord(
                nonce=self._nonce,
                status="succeeded",
                kind=self.kind,
                attempt=self.number,
                sha256=hashlib.sha256(payload).hexdigest(),
                report=report or {},
            ),
            payload,
        )

    def fail(self, reason: str, *, retry: bool = True) -> None:
        """It went wrong: by chance, so that another attempt may succeed, or as it always will.

        Raises: SupersededError, UnavailableError, as `succeed` does.
        """
        failures = count_failures(self.earlier_ends) + 1
        if retry and failures < self.max_attempts:
            self._end("failed", reason)
        else:
            self._commit(
                ResultRecord(
                    nonce=self._nonce,
                    status="failed",
                    attempt=self.number,
                    reason=shorten_reason(reason),
                )
            )

    def release(self, reason: str) -> None:
        """Give it back unharmed, for another worker to go on at once. It counts as no failure."""
        self._end("released", reason)

    def abandon(self) -> None:
        """Do what has to be done because of `stop`, or leave it to others altogether."""
        try:
            if self.stop_reason == "cancelled":
                with suppress(SupersededError):
                    self._commit(
                        ResultRecord(nonce=self._nonce, status="cancelled", attempt=self.number)
                    )
            elif self.stop_reason == "deleted":
                self._end("released", "deleted")
                self._checkpoints.remove()
        finally:
            # If that failed, the lease no longer names the attempt, so that others will end it.
            self.lease.remove_attempt(self.held)

    @property
    def _nonce(self) -> str:
        return f"{self.lease.worker}.{self.ledger.ids.nonce()}"

    def _commit(self, record: ResultRecord, payload: bytes = b"") -> None:
        key = self.keys.result(self.item_ref)
        if not self.ledger.create_once(key, pack(record, payload)):
            self._see_who_won(key, record)
        self.lease.remove_attempt(self.held)
        # The result stands: what is left over is swept if it cannot be removed now.
        with suppress(StorageError):
            self._checkpoints.remove()

    def _see_who_won(self, key: str, ours: ResultRecord) -> None:
        """Return if it was the same, in an earlier call. Raises: SupersededError."""
        line = self.ledger.find_record(key)
        there = unpack_result(key, line[1])[0] if line else None
        if isinstance(there, ResultRecord) and _alike(there, ours):
            return
        self.lease.remove_attempt(self.held)
        # Those who ended it did not see a checkpoint that was written after they looked.
        with suppress(StorageError):
            self._checkpoints.remove()
        how = "deleted" if there is None or isinstance(there, Tombstone) else there.status
        raise SupersededError(
            f"item {self.item.name!r} of job {self.keys.job} has ended as {how} by another hand"
        )

    def _end(self, cause: Literal["failed", "released"], reason: str) -> None:
        end_attempt(self.ledger, self.keys, self.item_ref, self.number, cause, reason)
        self.lease.remove_attempt(self.held)


def _alike(there: ResultRecord, ours: ResultRecord) -> bool:
    """Of one attempt: nonces begin with the worker."""
    return (there.nonce.partition(".")[0], there.attempt, there.status, there.sha256) == (
        ours.nonce.partition(".")[0],
        ours.attempt,
        ours.status,
        ours.sha256,
    )
