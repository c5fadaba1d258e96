"""A worker's side of the ledger: its lease, its claims, and the commands that stop its attempts."""

import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from services import logs, metrics
from services.errors import LeaseLostError, ServiceError
from services.ledger.attempts import Attempt
from services.ledger.claims import Claims
from services.ledger.jobs import read_commands
from services.ledger.keys import JobKeys
from services.ledger.leases import Lease
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord

log = logs.logger(__name__)


def any_job(job: JobRecord) -> bool:
    """Accept every job of the pool."""
    return True


def any_tenant(tenant: str) -> bool:
    """Admit every tenant."""
    return True


class WorkerSession:
    """A lease of a worker. `heartbeat` runs in a thread of its own, the rest in one other."""

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        accepts: Callable[[JobRecord], bool] = any_job,
        rng: random.Random | None = None,
    ) -> None:
        """Create a session; `accepts` tells which jobs of the pool the worker can do."""
        self.lease = Lease(ledger, pool)
        # Commands are read over the leases' connections, so that no bulk transfer can delay a
        # heartbeat until its lease has expired.
        self._ledger = replace(ledger, store=ledger.lease_store)
        self._claims = Claims(ledger, self.lease, pool, accepts, rng or random.Random())
        self._claimed: list[Attempt] = []
        self._not_begun: list[Attempt] = []
        """Claimed attempts that may not begin before the commands are read."""

    def begin(self) -> None:
        """Acquire the lease.

        Raises:
            LeaseLostError, UnavailableError: It was not acquired: begin a new session.
        """
        self.lease.acquire()

    def heartbeat(self) -> None:
        """Renew the lease, then read the commands. Call it four times in a lease's duration.

        Raises:
            LeaseLostError: All attempts have to stop, and a new session has to begin.
            UnavailableError: The store did not answer: call it again soon.
        """
        # The lease first: reading commands over a slow connection must not cost it.
        try:
            self.lease.renew()
        except LeaseLostError:
            for attempt in self.attempts:
                attempt.stop_reason = "lost"
            raise
        self._apply_commands(self.attempts)

    def end(self) -> None:
        """Release the lease. Others claim what it still holds: release those attempts before.

        Raises:
            LeaseLostError: The lease was broken already.
            UnavailableError: The store did not answer.
        """
        self.lease.release()

    @property
    def attempts(self) -> list[Attempt]:
        """Return the attempts that have not ended."""
        return [attempt for attempt in list(self._claimed) if self.lease.has_attempt(attempt.held)]

    def claim(self, limit: int, admits: Callable[[str], bool] = any_tenant) -> list[Attempt]:
        """Claim until the worker holds `limit` attempts, fairly among the tenants admitted.

        Returns the attempts to begin now; if there are none, ask again a little later. An isolated
        attempt is given only to a worker that holds nothing, and nothing is given beside it.

        Raises:
            UnavailableError: The store did not answer: call it again, and it returns what was
                claimed already.
        """
        self._claimed = self.attempts
        # Only under a fresh lease: an attempt that is claimed under an expired one is soon lost.
        while (
            self.lease.is_fresh
            and len(self._claimed) < limit
            and not any(attempt.isolated for attempt in self._claimed)
            and (attempt := self._claims.next(self._claimed, admits))
        ):
            self._claimed.append(attempt)
            self._not_begun.append(attempt)
        # After the claim: a command that was given before it is seen here, and one that is given
        # later is seen by a heartbeat. So nothing begins after its deletion.
        self._apply_commands(self._not_begun)
        claimed, self._not_begun = self._not_begun, []
        if self.lease.lost:
            for attempt in claimed:
                attempt.stop_reason = "lost"
        # Evaluated once: what a heartbeat stops from now on is abandoned by the caller.
        stopped = [attempt for attempt in claimed if attempt.stop_reason]
        for attempt in stopped:
            self._claims.forget(attempt.keys)
            # If that fails, the lease names the attempt no more, and the supervisor ends it.
            with suppress(ServiceError):
                attempt.abandon()
        return [attempt for attempt in claimed if attempt not in stopped]

    def _apply_commands(self, attempts: Iterable[Attempt]) -> None:
        """Set the stop reason of attempts whose job or item was cancelled or deleted."""
        by_job: dict[JobKeys, list[Attempt]] = {}
        for attempt in attempts:
            by_job.setdefault(attempt.keys, []).append(attempt)
        failure: ServiceError | None = None
        for keys, job_attempts in by_job.items():
            try:
                commands = read_commands(self._ledger, keys)
            except ServiceError as error:
                failure = error  # The commands of the other jobs are read all the same.
                continue
            for attempt in job_attempts:
                if commands.is_deleted(attempt.item_ref.index):
                    attempt.stop_reason = "deleted"
                elif commands.cancelled:
                    attempt.stop_reason = attempt.stop_reason or "cancelled"
        if failure:
            raise failure


# Three in a row may fail before the lease expires.
_HEARTBEATS_PER_LEASE = 4

_LOG_INTERVAL_S = 60.0
"""Pause between two logged failures, so that an outage does not fill the log."""


class Heartbeat:
    """A thread that does nothing but keep a worker's lease, while the context is entered."""

    def __init__(self, worker: WorkerSession) -> None:
        self._worker = worker
        self._interval_s = worker.lease.duration_s / _HEARTBEATS_PER_LEASE
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._logged_at = float("-inf")
        self.failures = 0
        """How many heartbeats have failed since the last one that succeeded."""
        self.last_error: Exception | None = None
        """Why the last heartbeat failed; None if it succeeded."""

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        # After a failure sooner: the lease runs out.
        while not self._stopped.wait(self._interval_s / (4 if self.failures else 1)):
            try:
                self._worker.heartbeat()
                self.failures, self.last_error = 0, None
            except LeaseLostError:
                # Final, so that there is nothing left to renew: the session sees `lease.lost`.
                return
            except Exception as error:
                # Any error, a bug too: a thread that ended here would take the lease with it, and
                # the worker may well finish its work before the lease expires.
                self.failures, self.last_error = self.failures + 1, error
                metrics.current().count("dti_heartbeat_errors_total")
                if time.monotonic() - self._logged_at >= _LOG_INTERVAL_S:
                    self._logged_at = time.monotonic()
                    worker = self._worker.lease.worker
                    log.exception("heartbeat failed", worker=worker, failures=self.failures)
