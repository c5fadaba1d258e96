"""Leases: one object per worker, which says that it lives and which attempts it works at.

A worker renews its lease several times within its duration, by compare-and-swap, so that it learns
when another process has broken it. Only the store's clock decides whether a lease has expired: it
is the one clock that all processes share, while clocks of hosts may be hours off. Breaking a lease
is a compare-and-swap as well, on the version that was found expired: if the worker has renewed it
in the meantime, the lease stands.
"""

import threading
from datetime import timedelta

from pydantic import JsonValue

from services.errors import (
    DamagedRecordError,
    LeaseLostError,
    NotFoundError,
    PreconditionFailedError,
)
from services.ledger.keys import lease_key
from services.ledger.ledger import Ledger, compare_and_swap, create_once
from services.ledger.records import HeldAttempt, LeaseRecord, pack, unpack
from services.storage.interface import Head

_ROUNDING = timedelta(seconds=1)
"""S3 states times in whole seconds, so that an age may be a second too high."""


class Lease:
    """A worker's own lease. One thread may renew it; all other methods are thread-safe."""

    def __init__(self, ledger: Ledger, pool: str) -> None:
        self.worker = ledger.ids.worker()
        self._ledger = ledger
        self._pool = pool
        self._version = 0
        self._etag = ""
        self._lock = threading.Lock()
        self._attempts: dict[tuple[str, str, int, int, int], HeldAttempt] = {}
        self._renewed_at = 0.0
        self.lost = False
        """Whether another process broke it, which is final."""
        self.released = False
        """Whether the worker has ended, or is about to."""

    @property
    def duration_s(self) -> float:
        """Return how long it holds without renewal."""
        return self._ledger.settings.lease_s

    @property
    def is_fresh(self) -> bool:
        """Return whether it was renewed so recently that no process can have broken it.

        This goes by this host's clock. It may therefore only prevent a worker from claiming more,
        and never justify a write.
        """
        age = self._ledger.clock() - self._renewed_at
        # Half the duration, so that a claim which is younger than the other half proves by itself
        # that its lease stands: `recovery` then saves reading the lease.
        is_held = bool(self._etag) and not (self.lost or self.released)
        return is_held and age < self.duration_s / 2

    def acquire(self) -> None:
        """Create the lease. A worker does so before its first claim."""
        begun = self._ledger.clock()
        key, body = lease_key(self.worker), self._next_body("held")
        if not (etag := create_once(self._ledger.lease_store, key, body)):
            raise LeaseLostError(f"worker {self.worker} has a lease already: begin as a new worker")
        self._etag, self._renewed_at = etag, begun

    def add_attempt(self, held: HeldAttempt) -> None:
        """Name an attempt from the next renewal on."""
        with self._lock:
            self._attempts[_attempt_key(held)] = held

    def remove_attempt(self, held: HeldAttempt) -> None:
        """Stop naming an attempt. If it has not ended by then, the supervisor will end it."""
        with self._lock:
            self._attempts.pop(_attempt_key(held), None)

    def has_attempt(self, held: HeldAttempt) -> bool:
        """Return whether the lease names an attempt."""
        with self._lock:
            return _attempt_key(held) in self._attempts

    def report_progress(self, held: HeldAttempt, progress: dict[str, JsonValue]) -> None:
        """Publish an attempt's progress from the next renewal on.

        Raises:
            ValueError: The progress cannot be written as JSON.
        """
        updated = held.model_copy(update={"progress": progress})
        # Fails here, in the caller's thread: in the heartbeat it would cost the lease.
        updated.model_dump_json(warnings="error")
        with self._lock:
            if _attempt_key(held) in self._attempts:
                self._attempts[_attempt_key(held)] = updated

    def renew(self) -> None:
        """Show that the worker lives.

        Raises:
            LeaseLostError: Another process broke the lease, or it was released.
            UnavailableError: The store did not answer; the lease may still hold: try again.
        """
        if self.released:
            raise LeaseLostError(f"worker {self.worker} has ended: begin as a new worker")
        self._write("held")

    def release(self) -> None:
        """Say that the worker ends, so that its attempts need not wait for the lease to expire.

        It claims and renews nothing from now on, even if this call fails.
        """
        self.released = True
        self._write("released")

    def abandon_lease(self) -> None:
        """Break the lease from any thread, for a worker that cannot go on.

        Its unfinished work is lost, and others can claim it at once.

        Raises:
            UnavailableError: The store did not answer.
        """
        # The heartbeat may renew it in between, which makes the break fail: then it is read again.
        while (found := read_lease(self._ledger, self.worker)) and found[1].state == "held":
            if break_lease(self._ledger, *found):
                break
        self.lost = True

    def _write(self, state: str) -> None:
        if self.lost:
            raise LeaseLostError(
                f"the lease of worker {self.worker} was broken: begin as a new worker"
            )
        while True:
            begun = self._ledger.clock()
            key, body = lease_key(self.worker), self._next_body(state)
            if etag := compare_and_swap(self._ledger.lease_store, key, body, self._etag):
                # The time before the request: the store's clock read it at some later moment.
                self._etag, self._renewed_at = etag, begun
                return
            stored = read_lease(self._ledger, self.worker)
            if stored and stored[1].state == "released":
                return  # By an earlier call of ours, whose answer was lost.
            if stored is None or stored[1].state != "held":
                self.lost = True
                raise LeaseLostError(
                    f"the lease of worker {self.worker} was broken: it was not renewed within "
                    f"{self.duration_s:g} s; its attempts belong to others now"
                )
            # An earlier renewal of ours, whose answer was lost: continue from that version.
            self._etag = stored[0].etag

    def _next_body(self, state: str) -> bytes:
        self._version += 1
        with self._lock:
            # The lock is held for the copy alone: threads that add attempts must not wait for a
            # request to the store.
            attempts = tuple(self._attempts.values())
        return pack(
            LeaseRecord.model_validate(
                {
                    "nonce": self._ledger.ids.nonce(),
                    "worker": self.worker,
                    "pool": self._pool,
                    "version": self._version,
                    "duration_s": self.duration_s,
                    "state": state,
                    "attempts": attempts,
                }
            )
        )


def is_expired(head: Head, record: LeaseRecord) -> bool:
    """Return whether a lease was too old when the store returned it, so that it may be broken."""
    return head.age > timedelta(seconds=record.duration_s) + _ROUNDING


def read_lease(ledger: Ledger, worker: str) -> tuple[Head, LeaseRecord] | None:
    """Return a worker's lease, or None if there is none that can be read: the worker is dead."""
    key = lease_key(worker)
    try:
        stored = ledger.lease_store.read(key)
        return stored.head, unpack(key, stored.body, LeaseRecord)[0]
    except (NotFoundError, DamagedRecordError):
        # A worker whose lease is damaged finds out at its next renewal, and begins anew.
        return None


def break_lease(ledger: Ledger, head: Head, record: LeaseRecord) -> bool:
    """Break a lease, and return whether it is broken by this call.

    False means that its worker renewed it, or that another process broke it first.
    """
    broken = record.model_copy(
        update={
            "nonce": ledger.ids.nonce(),
            "version": record.version + 1,
            "state": "broken",
            "attempts": (),
        }
    )
    return compare_and_swap(ledger.lease_store, head.key, pack(broken), head.etag) is not None


def remove_lease(ledger: Ledger, head: Head) -> None:
    """Remove a broken or released lease, which no process writes any more."""
    try:
        ledger.lease_store.delete_if(head.key, expected=head.etag)
    except PreconditionFailedError:
        # It has changed since it was listed: the next pass decides again.
        return


def _attempt_key(held: HeldAttempt) -> tuple[str, str, int, int, int]:
    return held.tenant, held.job, held.round, held.index, held.number
