"""Which item a worker claims next, and the claim.

Whose turn it is: a fair choice between tenants, made by each worker for itself.

A worker serves the tenant of whom it has the fewest attempts in hand, and among those the one that
it has served least. If all workers share each of their slots so, the pool is shared so, and nobody
has to count for all. A tenant who comes anew begins level with the least served one: what others
had before is no debt to it, nor its own idleness a credit.
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
from services.ledger.keys import MAX_ATTEMPTS, JobKeys
from services.ledger.leases import Lease
from services.ledger.ledger import Ledger
from services.ledger.queue import queued_jobs, queued_tenants
from services.ledger.records import ClaimRecord, EndedRecord, JobRecord, pack
from services.ledger.results import (
    count_failures,
    fail_exhausted,
    must_run_isolated,
    read_attempt_ends,
)


class FairQueue:
    """One worker's."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._served: dict[str, int] = {}
        self._chance = rng or random.Random()

    def order(self, tenants: Iterable[str], held: Counter[str]) -> list[str]:
        """Tenants who wait, whose turn comes first first. Ties are drawn, so that many workers do
        not all begin with the same one.
        """
        waiting = list(tenants)
        level = min((self._served[one] for one in waiting if one in self._served), default=0)
        # Who waits no more is forgotten, and comes anew one day.
        self._served = {one: self._served.get(one, level) for one in waiting}
        return sorted(
            waiting, key=lambda one: (held[one], self._served[one], self._chance.random())
        )

    def record_claim(self, tenant: str, without_work: Iterable[str] = ()) -> None:
        """It has got something, after those in `in_vain` were asked and had nothing to give. That
        they could not take their turn is no credit to them.
        """
        level = self._served.get(tenant, 0)
        for one in without_work:
            self._served[one] = max(self._served.get(one, 0), level)
        self._served[tenant] = level + 1


_NEAR = 16
"""Jobs of a tenant that are so near in time that their order matters less than no crowd does."""

_REMEMBERED = 1000
"""Items of which it is known how long they have waited to be tried alone."""


class _Isolated(NamedTuple):
    """An item that may be what killed its workers, and so is to be tried alone."""

    candidates: Candidates
    candidate: Candidate
    ends: tuple[EndedRecord, ...]


class Claims:
    """One worker's choice among all that waits in its pool."""

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
        self._chance = rng
        self._turns = FairQueue(rng)
        self._jobs: dict[JobKeys, Candidates] = {}
        self._queue: dict[str, list[JobKeys] | None] = {}
        """Each tenant's jobs, once they have been looked up."""
        self._looked = float("-inf")
        self._passed_over: dict[tuple[JobKeys, Candidate], float] = {}
        """Since when items wait for a worker with nothing in hand."""
        self._patience = rng.uniform(1, 4) * ledger.settings.lease_s
        self._lonely: _Isolated | None = None

    def next(self, in_hand: Sequence[Attempt], admits: Callable[[str], bool]) -> Attempt | None:
        """One more attempt beside those in hand, of a tenant who is admitted; None: there is
        nothing for this worker now.
        """
        if self._lonely and in_hand:
            # It has waited long enough for somebody to be idle: nothing else is begun before it,
            # unless somebody has it by now.
            if not self._is_claimed(self._lonely):
                return None
            self._lonely = None
        if (lonely := self._lonely) and admits(lonely.candidates.keys.tenant):
            self._lonely = None
            attempt = self._try(lonely.candidates, lonely.candidate, lonely.ends, alone=True)
            if attempt:
                return attempt
        self._look()
        held = Counter(attempt.keys.tenant for attempt in in_hand)
        order = [one for one in self._turns.order(self._queue, held) if admits(one)]
        for place, tenant in enumerate(order):
            for keys in self._jobs_of(tenant):
                if attempt := self._claim_of(keys, idle=not in_hand):
                    self._turns.record_claim(tenant, without_work=order[:place])
                    return attempt
        return None

    def _is_claimed(self, lonely: _Isolated) -> bool:
        place, number = lonely.candidate.place, lonely.candidate.number
        return self._ledger.exists(lonely.candidates.keys.attempt(place, number))

    def _look(self) -> None:
        now = self._ledger.clock()
        if now - self._looked <= self._ledger.settings.poll_interval_s:
            return
        self._queue = dict.fromkeys(queued_tenants(self._ledger, self._pool))
        self._looked = now
        self._jobs = {k: one for k, one in self._jobs.items() if k.tenant in self._queue}

    def _jobs_of(self, tenant: str) -> list[JobKeys]:
        """A tenant's jobs, those that came first first. Near ones are shuffled, or all workers
        would reach for the same small job at once.
        """
        jobs = self._queue[tenant]
        if jobs is None:
            waiting = queued_jobs(self._ledger, self._pool, tenant)
            jobs = []
            for start in range(0, len(waiting), _NEAR):
                near = waiting[start : start + _NEAR]
                jobs += [JobKeys(tenant, job) for job in self._chance.sample(near, len(near))]
            self._queue[tenant] = jobs
            known = set(jobs)
            self._jobs = {
                k: one for k, one in self._jobs.items() if k.tenant != tenant or k in known
            }
        return jobs

    def _claim_of(self, keys: JobKeys, *, idle: bool) -> Attempt | None:
        candidates = self._jobs.get(keys)
        if candidates is None:
            candidates = self._jobs[keys] = Candidates(self._ledger, keys, self._chance)
        try:
            if not self._accepts(candidates.spec.record) or not candidates.refresh():
                return None
            return self._first_of(candidates, idle=idle)
        except (DamagedRecordError, DeletedError, UnknownJobError):
            return None  # The supervisor mends or reports it; other jobs are no worse for it.

    def _first_of(self, candidates: Candidates, *, idle: bool) -> Attempt | None:
        while candidate := candidates.next():
            try:
                attempt = self._consider(candidates, candidate, idle=idle)
            except StorageError:
                candidates.put_back(candidate)
                raise
            if attempt:
                return attempt
        return None

    def _consider(
        self, candidates: Candidates, candidate: Candidate, *, idle: bool
    ) -> Attempt | None:
        most = candidates.spec.record.max_attempts
        ends = read_attempt_ends(
            self._ledger, candidates.keys, candidate.place, candidate.number - 1
        )
        failures = count_failures(ends)
        if failures >= most or candidate.number > MAX_ATTEMPTS:
            fail_exhausted(self._ledger, candidates.keys, candidate.place, ends)
            return None
        alone = must_run_isolated(ends, most)
        if alone and not idle:
            self._pass_over(_Isolated(candidates, candidate, ends))
            return None
        attempt = self._try(candidates, candidate, ends, alone=alone)
        if attempt is None:
            candidates.missed()
        return attempt

    def forget(self, keys: JobKeys) -> None:
        """What was seen of a job that takes no more attempts."""
        self._jobs.pop(keys, None)

    def _pass_over(self, lonely: _Isolated) -> None:
        now = self._ledger.clock()
        if len(self._passed_over) >= _REMEMBERED:
            self._passed_over.clear()
        item = lonely.candidates.keys, lonely.candidate
        if now - self._passed_over.setdefault(item, now) > self._patience:
            self._lonely = lonely

    def _try(
        self,
        candidates: Candidates,
        candidate: Candidate,
        earlier: tuple[EndedRecord, ...],
        *,
        alone: bool,
    ) -> Attempt | None:
        keys, spec = candidates.keys, candidates.spec
        place, number = candidate.place, candidate.number
        attempt = Attempt(
            ledger=self._ledger,
            lease=self._lease,
            keys=keys,
            item_ref=place,
            number=number,
            item=spec.item(place.index),
            shared=spec.shared,
            max_attempts=spec.record.max_attempts,
            kind=spec.record.kind,
            isolated=alone,
            earlier_ends=earlier,
            resume_from=None,
        )
        # Named before it is claimed, so that no renewal after the claim leaves it out.
        self._lease.add_attempt(attempt.held)
        claimed = False
        try:
            record = ClaimRecord(nonce=self._ledger.ids.nonce(), worker=self._lease.worker)
            if not self._ledger.create_once(keys.attempt(place, number), pack(record)):
                metrics.current().count("dti_claim_conflicts_total")
                return None
            if number > 1:
                if self._ledger.exists(keys.result(place)):
                    return None
                attempt.resume_from = latest_checkpoint(self._ledger, keys, place)
            claimed = True
        finally:
            if not claimed:
                self._lease.remove_attempt(attempt.held)
        return attempt
