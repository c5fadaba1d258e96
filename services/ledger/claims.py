"""Claims: which item a worker attempts next, fairly between tenants, and the claim itself.

Fair queueing without a coordinator: each worker serves the tenant of whom it holds the fewest
attempts, and among those the one that it has served least. If every worker divides its own slots
fairly, the pool is divided fairly, and no process has to count for all.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from services import metrics
from services.errors import DamagedRecordError, DeletedError, StorageError, UnknownJobError
from services.ledger.attempts import Attempt
from services.ledger.candidates import Candidate, Candidates
from services.ledger.checkpoints import latest_checkpoint
from services.ledger.item_results import (
    count_failures,
    fail_exhausted,
    must_run_isolated,
    read_attempt_ends,
)
from services.ledger.keys import MAX_ATTEMPTS, JobKeys
from services.ledger.leases import Lease
from services.ledger.ledger import Ledger
from services.ledger.queue import queued_jobs, queued_tenants
from services.ledger.records import ClaimRecord, EndedRecord, JobRecord, pack


class FairQueue:
    """A worker's fair order of the tenants that wait."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._served: dict[str, int] = {}
        self._rng = rng or random.Random()

    def order(self, tenants: Iterable[str], held: Counter[str]) -> list[str]:
        """Return the waiting tenants, the next to serve first.

        Args:
            tenants: The tenants that wait.
            held: How many attempts of each tenant the worker holds.
        """
        waiting = list(tenants)
        # A new tenant begins level with the least served one: what others had before it came is no
        # debt of theirs, and its idleness is no credit.
        level = min((self._served[name] for name in waiting if name in self._served), default=0)
        # Tenants that wait no more are forgotten, and are new when they return.
        self._served = {name: self._served.get(name, level) for name in waiting}
        # Ties are drawn, so that many workers do not all begin with the same tenant.
        return sorted(
            waiting, key=lambda name: (held[name], self._served[name], self._rng.random())
        )

    def record_claim(self, tenant: str, without_work: Iterable[str] = ()) -> None:
        """Record that a tenant was served, after those in `without_work` had nothing to claim.

        A turn that those could not take must not count as a credit for later.
        """
        level = self._served.get(tenant, 0)
        for name in without_work:
            self._served[name] = max(self._served.get(name, 0), level)
        self._served[tenant] = level + 1


_SHUFFLED_JOBS = 16
"""Jobs of a tenant, next to each other in time, that are shuffled: a strict order would make all
workers reach for the same job.
"""

_MAX_DEFERRED = 1000
"""Isolated items for which a worker remembers how long they have waited."""


class _Isolated(NamedTuple):
    """An item that must be attempted with nothing else beside it."""

    candidates: Candidates
    candidate: Candidate
    ends: tuple[EndedRecord, ...]


class Claims:
    """A worker's choice among all queued items of its pool."""

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        pool: str,
        accepts: Callable[[JobRecord], bool],
        rng: random.Random,
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._pool = pool
        self._accepts = accepts
        self._rng = rng
        self._fair_queue = FairQueue(rng)
        self._candidates: dict[JobKeys, Candidates] = {}
        self._jobs: dict[str, list[JobKeys] | None] = {}
        """The jobs of each tenant that waits; None until they are listed."""
        self._listed_at = float("-inf")
        self._deferred: dict[tuple[JobKeys, Candidate], float] = {}
        """The time since which an isolated item has waited for a worker that holds nothing."""
        # Drawn, so that not all busy workers stop refilling for the same item at once.
        self._max_deferral_s = rng.uniform(1, 4) * ledger.settings.lease_s
        self._reserved: _Isolated | None = None
        """The isolated item that this worker takes next, once it holds nothing."""

    def next(self, held: Sequence[Attempt], admits: Callable[[str], bool]) -> Attempt | None:
        """Claim one more item of an admitted tenant, or return None if there is nothing to do.

        Args:
            held: The attempts that the worker holds.
            admits: Tells which tenants may be served.
        """
        if self._reserved and held:
            # The item has waited so long for an idle worker that this one becomes idle for it, by
            # claiming nothing more, unless another worker has claimed it by now.
            if not self._is_claimed(self._reserved):
                return None
            self._reserved = None
        # The worker holds nothing now, so that it can take the item that it became idle for.
        if (isolated := self._reserved) and admits(isolated.candidates.keys.tenant):
            self._reserved = None
            attempt = self._claim(
                isolated.candidates, isolated.candidate, isolated.ends, isolated=True
            )
            if attempt:
                return attempt
        self._refresh()
        per_tenant = Counter(attempt.keys.tenant for attempt in held)
        order = [name for name in self._fair_queue.order(self._jobs, per_tenant) if admits(name)]
        for position, tenant in enumerate(order):
            for keys in self._jobs_of(tenant):
                if attempt := self._claim_from(keys, is_idle=not held):
                    self._fair_queue.record_claim(tenant, without_work=order[:position])
                    return attempt
        return None

    def forget(self, keys: JobKeys) -> None:
        """Forget the candidates of a job that takes no more attempts."""
        self._candidates.pop(keys, None)

    def _is_claimed(self, isolated: _Isolated) -> bool:
        item, number = isolated.candidate.item, isolated.candidate.number
        return self._ledger.exists(isolated.candidates.keys.attempt(item, number))

    def _refresh(self) -> None:
        """List the waiting tenants again, if the last listing is old."""
        now = self._ledger.clock()
        if now - self._listed_at <= self._ledger.settings.poll_interval_s:
            return
        # Candidates of tenants that wait no more are forgotten: a worker lives for weeks, and would
        # keep a listing of every job that it has ever seen.
        self._jobs = dict.fromkeys(queued_tenants(self._ledger, self._pool))
        self._listed_at = now
        self._candidates = {
            keys: candidates
            for keys, candidates in self._candidates.items()
            if keys.tenant in self._jobs
        }

    def _jobs_of(self, tenant: str) -> list[JobKeys]:
        """Return a tenant's jobs, oldest first but shuffled in groups."""
        jobs = self._jobs[tenant]
        if jobs is None:
            queued = queued_jobs(self._ledger, self._pool, tenant)
            jobs = []
            for start in range(0, len(queued), _SHUFFLED_JOBS):
                group = queued[start : start + _SHUFFLED_JOBS]
                jobs += [JobKeys(tenant, job) for job in self._rng.sample(group, len(group))]
            self._jobs[tenant] = jobs
            known = set(jobs)
            self._candidates = {
                keys: candidates
                for keys, candidates in self._candidates.items()
                if keys.tenant != tenant or keys in known
            }
        return jobs

    def _claim_from(self, keys: JobKeys, *, is_idle: bool) -> Attempt | None:
        candidates = self._candidates.get(keys)
        if candidates is None:
            candidates = self._candidates[keys] = Candidates(self._ledger, keys, self._rng)
        try:
            if not self._accepts(candidates.spec.record) or not candidates.refresh():
                return None
            return self._claim_first(candidates, is_idle=is_idle)
        except (DamagedRecordError, DeletedError, UnknownJobError):
            return None  # The supervisor repairs or reports this job; the others go on.

    def _claim_first(self, candidates: Candidates, *, is_idle: bool) -> Attempt | None:
        while candidate := candidates.next():
            try:
                attempt = self._consider(candidates, candidate, is_idle=is_idle)
            # Perhaps it was not claimed: without this, the worker would pass it over until it lists
            # the items again.
            except StorageError:
                candidates.put_back(candidate)
                raise
            if attempt:
                return attempt
        return None

    def _consider(
        self, candidates: Candidates, candidate: Candidate, *, is_idle: bool
    ) -> Attempt | None:
        """Claim a candidate, unless its attempts are used up or it waits for an idle worker."""
        keys, max_attempts = candidates.keys, candidates.spec.record.max_attempts
        ends = read_attempt_ends(self._ledger, keys, candidate.item, candidate.number - 1)
        # An item that was only ever released ends here as well, once its numbers are used up: they
        # have two digits.
        if count_failures(ends) >= max_attempts or candidate.number > MAX_ATTEMPTS:
            fail_exhausted(self._ledger, keys, candidate.item, ends)
            return None
        isolated = must_run_isolated(ends, max_attempts)
        if isolated and not is_idle:
            self._defer(_Isolated(candidates, candidate, ends))
            return None
        attempt = self._claim(candidates, candidate, ends, isolated=isolated)
        if attempt is None:
            candidates.record_conflict()
        return attempt

    def _defer(self, isolated: _Isolated) -> None:
        """Leave an isolated item to an idle worker, and reserve it once it has waited too long."""
        now = self._ledger.clock()
        # Forgetting makes such items wait once more; it bounds the memory, however many jobs are
        # poisonous.
        if len(self._deferred) >= _MAX_DEFERRED:
            self._deferred.clear()
        key = isolated.candidates.keys, isolated.candidate
        if now - self._deferred.setdefault(key, now) > self._max_deferral_s:
            self._reserved = isolated

    def _claim(
        self,
        candidates: Candidates,
        candidate: Candidate,
        earlier_ends: tuple[EndedRecord, ...],
        *,
        isolated: bool,
    ) -> Attempt | None:
        keys, spec = candidates.keys, candidates.spec
        item, number = candidate.item, candidate.number
        attempt = Attempt(
            ledger=self._ledger,
            lease=self._lease,
            keys=keys,
            item_ref=item,
            number=number,
            item=spec.item(item.index),
            shared=spec.shared,
            max_attempts=spec.record.max_attempts,
            kind=spec.record.kind,
            isolated=isolated,
            earlier_ends=earlier_ends,
            resume_from=None,
        )
        # Named before it is claimed, so that every renewal after the claim names it: a supervisor
        # ends a claim that its living worker does not name.
        self._lease.add_attempt(attempt.held)
        is_claimed = False
        try:
            record = ClaimRecord(nonce=self._ledger.ids.nonce(), worker=self._lease.worker)
            if not self._ledger.create_once(keys.attempt(item, number), pack(record)):
                metrics.current().count("dti_claim_conflicts_total")
                return None
            # A first attempt needs no look: only an earlier one can have committed, and the
            # commands are read after the claim.
            if number > 1:
                # The attempt before may have committed after its lease was broken.
                if self._ledger.exists(keys.result(item)):
                    return None
                attempt.resume_from = latest_checkpoint(self._ledger, keys, item)
            is_claimed = True
        finally:
            if not is_claimed:
                self._lease.remove_attempt(attempt.held)
        return attempt
