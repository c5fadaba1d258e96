"""One lease a worker: who lives, and what at.

A worker renews its lease a few times within its length, by swaps, so that it learns when somebody
broke it. Whether a lease is over is judged by the store's clock alone. Breaking it is a swap too,
on top of the version that was found too old: if the worker renewed it meanwhile, it stays whole.
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
from services.ledger import keys as layout
from services.ledger.ledger import Ledger, compare_and_swap, create_once
from services.ledger.records import HeldAttempt, LeaseRecord, pack, unpack
from services.storage.interface import Head

_ROUNDING = timedelta(seconds=1)
"""S3 tells times in whole seconds."""


class Lease:
    """A worker's own. `renew` is for one thread; the others for any."""

    def __init__(self, ledger: Ledger, pool: str) -> None:
        self.worker = ledger.ids.worker()
        self._ledger = ledger
        self._pool = pool
        self._version = 0
        self._etag = ""
        self._lock = threading.Lock()
        self._holds: dict[tuple[str, str, int, int, int], HeldAttempt] = {}
        self._renewed = 0.0
        self.lost = False
        """Somebody broke it: for good."""
        self.released = False
        """The worker has ended, or is about to."""

    @property
    def duration_s(self) -> float:
        """How long it lasts when it is not renewed."""
        return self._ledger.settings.lease_s

    @property
    def is_fresh(self) -> bool:
        """Renewed so lately that nobody can have broken it. By this host's clock, so it is a reason
        to begin nothing new, and never one to believe anything.
        """
        age = self._ledger.clock() - self._renewed
        return bool(self._etag) and not (self.lost or self.released) and age < self.duration_s / 2

    def acquire(self) -> None:
        """Write it for the first time. Before any claim."""
        begun = self._ledger.clock()
        key, body = layout.lease_key(self.worker), self._body("held")
        if not (etag := create_once(self._ledger.lease_store, key, body)):
            raise LeaseLostError(
                f"a lease of worker {self.worker} stands there already: make a new worker"
            )
        self._etag, self._renewed = etag, begun

    def add_attempt(self, held: HeldAttempt) -> None:
        """Name an attempt from the next renewal on."""
        with self._lock:
            self._holds[_key(held)] = held

    def remove_attempt(self, held: HeldAttempt) -> None:
        """Name it no more. If it has no end by then, others will give it one."""
        with self._lock:
            self._holds.pop(_key(held), None)

    def has_attempt(self, held: HeldAttempt) -> bool:
        """Whether it is named."""
        with self._lock:
            return _key(held) in self._holds

    def report_progress(self, held: HeldAttempt, progress: dict[str, JsonValue]) -> None:
        """Progress of an attempt, to be seen from the next renewal on.

        Raises: ValueError if it is no JSON.
        """
        told = held.model_copy(update={"progress": progress})
        told.model_dump_json(warnings="error")
        with self._lock:
            if _key(held) in self._holds:
                self._holds[_key(held)] = told

    def renew(self) -> None:
        """Show that the worker lives.

        Raises: LeaseLostError if somebody broke it, or it was released. UnavailableError if the
        store does not answer: try again, it may still hold.
        """
        if self.released:
            raise LeaseLostError(f"worker {self.worker} has ended: make a new one")
        self._swap("held")

    def release(self) -> None:
        """Say that the worker ends, so that nobody waits for its lease to run out. It claims and
        renews nothing from now on, even if this fails.
        """
        self.released = True
        self._swap("released")

    def abandon_lease(self) -> None:
        """Break it, as others would once it is over: what is in hand is lost, and others' at once.
        For a worker that cannot go on. From any thread. Raises: UnavailableError.
        """
        while (found := read_lease(self._ledger, self.worker)) and found[1].state == "held":
            if break_lease(self._ledger, *found):
                break
        self.lost = True

    def _swap(self, state: str) -> None:
        if self.lost:
            raise LeaseLostError(f"the lease of worker {self.worker} was broken: make a new worker")
        while True:
            begun = self._ledger.clock()
            key, body = layout.lease_key(self.worker), self._body(state)
            if etag := compare_and_swap(self._ledger.lease_store, key, body, self._etag):
                self._etag, self._renewed = etag, begun
                return
            there = read_lease(self._ledger, self.worker)
            if there and there[1].state == "released":
                return  # By us, in an earlier call whose answer was lost.
            if there is None or there[1].state != "held":
                self.lost = True
                raise LeaseLostError(
                    f"the lease of worker {self.worker} was broken: it was not renewed within "
                    f"{self.duration_s:g} s; its attempts are others' now"
                )
            # An earlier renewal, whose answer was lost: go on from it.
            self._etag = there[0].etag

    def _body(self, state: str) -> bytes:
        self._version += 1
        with self._lock:
            attempts = tuple(self._holds.values())
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
    """Whether a lease that was read may be broken."""
    return head.age > timedelta(seconds=record.duration_s) + _ROUNDING


def read_lease(ledger: Ledger, worker: str) -> tuple[Head, LeaseRecord] | None:
    """A worker's lease. None: there is none, or none that can be read, so that it is dead."""
    key = layout.lease_key(worker)
    try:
        there = ledger.lease_store.read(key)
        return there.head, unpack(key, there.body, LeaseRecord)[0]
    except (NotFoundError, DamagedRecordError):
        return None


def break_lease(ledger: Ledger, head: Head, record: LeaseRecord) -> bool:
    """Whether a lease that is over is broken now; False: it was renewed, or another did it."""
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
    """Remove a broken or released lease: nobody writes it any more."""
    try:
        ledger.lease_store.delete_if(head.key, expected=head.etag)
    except PreconditionFailedError:
        return


def _key(held: HeldAttempt) -> tuple[str, str, int, int, int]:
    return held.tenant, held.job, held.round, held.index, held.number
