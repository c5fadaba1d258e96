"""A worker's side: it lives by its lease, claims items, and hears what was asked for meanwhile.

A worker's heart: a thread that does nothing but renew its lease and hear what was asked for,
whatever else keeps the process busy.
"""

import random
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from services.errors import LeaseLostError, ServiceError
from services.ledger.attempts import Attempt
from services.ledger.claims import Claims
from services.ledger.jobs import read_commands
from services.ledger.keys import JobKeys
from services.ledger.leases import Lease
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord


def any_job(job: JobRecord) -> bool:
    """Accepts whatever its pool has."""
    return True


def any_tenant(tenant: str) -> bool:
    """Admits whoever waits."""
    return True


class WorkerSession:
    """One life of one worker. `beat` is for a thread of its own; the rest for another one."""

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        accepts: Callable[[JobRecord], bool] = any_job,
        rng: random.Random | None = None,
    ) -> None:
        """`accepts` says which jobs of the pool this worker can do."""
        self.lease = Lease(ledger, pool)
        # Orders are read as leases are: no bulk transfer keeps a beat from the next renewal.
        self._ledger = replace(ledger, store=ledger.lease_store)
        self._claims = Claims(ledger, self.lease, pool, accepts, rng or random.Random())
        self._in_hand: list[Attempt] = []
        self._unheard: list[Attempt] = []
        """Those of them that may not begin before the orders are read."""

    def begin(self) -> None:
        """Live. Raises: LeaseLostError, UnavailableError: make a new one."""
        self.lease.acquire()

    def heartbeat(self) -> None:
        """Renew the lease, then see which attempts have to stop. Call it four times a lease.

        Raises: LeaseLostError: all attempts have to stop, and a new worker to begin.
        UnavailableError: call it again soon.
        """
        try:
            self.lease.renew()
        except LeaseLostError:
            for attempt in self.attempts:
                attempt.stop_reason = "lost"
            raise
        self._hear(self.attempts)

    def end(self) -> None:
        """Live no more. What is still in hand is others' at once: release it before.

        Raises: LeaseLostError if it is held for dead already; UnavailableError.
        """
        self.lease.release()

    @property
    def attempts(self) -> list[Attempt]:
        """Attempts that have not ended."""
        return [one for one in list(self._in_hand) if self.lease.has_attempt(one.held)]

    def claim(self, limit: int, admits: Callable[[str], bool] = any_tenant) -> list[Attempt]:
        """Attempts to begin now, until `limit` are in hand, fairly chosen among the tenants that
        are admitted. If there are none, try again a little later.

        An attempt that is to be `alone` is given only to a worker with nothing in hand, and then
        nothing beside it.

        Raises: UnavailableError: call it again; what is claimed already is given then.
        """
        self._in_hand = self.attempts
        while (
            self.lease.is_fresh
            and len(self._in_hand) < limit
            and not any(one.isolated for one in self._in_hand)
            and (attempt := self._claims.next(self._in_hand, admits))
        ):
            self._in_hand.append(attempt)
            self._unheard.append(attempt)
        self._hear(self._unheard)
        claimed, self._unheard = self._unheard, []
        if self.lease.lost:
            for attempt in claimed:
                attempt.stop_reason = "lost"
        # Once: what a beat stops from now on is its receiver's to abandon.
        stopped = [attempt for attempt in claimed if attempt.stop_reason]
        for attempt in stopped:
            self._claims.forget(attempt.keys)
            # Where that fails, the lease does not name it any more, and others end it.
            with suppress(ServiceError):
                attempt.abandon()
        return [attempt for attempt in claimed if attempt not in stopped]

    def _hear(self, attempts: Iterable[Attempt]) -> None:
        """Which of these have to stop. After a claim this is what lets it begin: an order that
        stood before the claim is seen.
        """
        jobs: dict[JobKeys, list[Attempt]] = {}
        for attempt in attempts:
            jobs.setdefault(attempt.keys, []).append(attempt)
        trouble: ServiceError | None = None
        for keys, ours in jobs.items():
            try:
                control = read_commands(self._ledger, keys)
            except ServiceError as error:
                trouble = error  # The orders of other jobs are heard all the same.
                continue
            for attempt in ours:
                if control.is_deleted(attempt.item_ref.index):
                    attempt.stop_reason = "deleted"
                elif control.cancelled:
                    attempt.stop_reason = attempt.stop_reason or "cancelled"
        if trouble:
            raise trouble


_BEATS = 4
"""A lease."""


class Heartbeat:
    """Beats while it is entered."""

    def __init__(self, worker: WorkerSession) -> None:
        self._worker = worker
        self._pause = worker.lease.duration_s / _BEATS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.last_error: Exception | None = None
        """Why the latest beat failed; the worker goes on as long as its lease."""

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._pause if self.last_error is None else self._pause / 4):
            try:
                self._worker.heartbeat()
                self.last_error = None
            except LeaseLostError:
                return
            except Exception as error:
                # Whatever it is: a thread that ended for it would take the lease with it.
                self.last_error = error
