"""A worker's side: it lives by its lease, claims items, and hears what was asked for meanwhile."""

import random
from collections import Counter
from collections.abc import Callable, Iterable

from services.errors import DamagedRecordError, DeletedError, LeaseLostError, UnknownJobError
from services.ledger.attempts import Attempt
from services.ledger.candidates import Candidate, Candidates
from services.ledger.checkpoints import latest_checkpoint
from services.ledger.control import read_control
from services.ledger.endings import count_failures, fail_exhausted, read_ends
from services.ledger.layout import MAX_ATTEMPTS, JobKeys
from services.ledger.leases import Lease
from services.ledger.ledger import Ledger
from services.ledger.queue import queued_jobs, queued_tenants
from services.ledger.records import ClaimRecord, EndedRecord, JobRecord, pack
from services.ledger.turns import Turns

_NEAR = 16
"""Jobs of a tenant that are so near in time that their order matters less than no crowd does."""


def _any_job(job: JobRecord) -> bool:
    return True


class Worker:
    """One life of one worker. `beat` is for a thread of its own; the rest for another one."""

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        accepts: Callable[[JobRecord], bool] = _any_job,
        chance: random.Random | None = None,
    ) -> None:
        """`accepts` says which jobs this worker can do: one backbone's, for example."""
        self.lease = Lease(ledger, pool)
        self._ledger = ledger
        self._pool = pool
        self._accepts = accepts
        self._chance = chance or random.Random()
        self._turns = Turns(self._chance)
        self._jobs: dict[JobKeys, Candidates] = {}
        self._in_hand: list[Attempt] = []
        self._claimed: list[Attempt] = []
        """Those of them that may not begin before the orders are read."""
        self._queue: dict[str, list[JobKeys] | None] = {}
        """Each tenant's jobs, once they have been looked up."""
        self._looked = float("-inf")

    def begin(self) -> None:
        """Live. Raises: UnavailableError: make a new one."""
        self.lease.begin()

    def beat(self) -> None:
        """Renew the lease, then see which attempts have to stop. Call it four times a lease.

        Raises: LeaseLostError: all attempts have to stop, and a new worker to begin.
        UnavailableError: call it again soon.
        """
        try:
            self.lease.renew()
        except LeaseLostError:
            for attempt in self.in_hand:
                attempt.stop = "lost"
            raise
        self._hear(self.in_hand)

    def end(self) -> None:
        """Live no more. What is still in hand is others' at once: release it before."""
        self.lease.release()

    @property
    def in_hand(self) -> list[Attempt]:
        """Attempts that have not ended."""
        return [one for one in list(self._in_hand) if self.lease.names(one.held)]

    def claim(self, limit: int) -> list[Attempt]:
        """Up to `limit` attempts to begin now, fairly chosen among tenants; none: try again later.

        An attempt that is to be `alone` is given only to a worker with nothing in hand, and with
        nothing beside it.

        Raises: UnavailableError: call it again; what is claimed already is given then.
        """
        self._in_hand = self.in_hand
        while (
            self.lease.fresh
            and len(self._in_hand) < limit
            and not any(one.alone for one in self._in_hand)
            and (attempt := self._claim_one())
        ):
            self._in_hand.append(attempt)
            self._claimed.append(attempt)
        self._hear(self._claimed)
        claimed, self._claimed = self._claimed, []
        for attempt in claimed:
            if attempt.stop:
                attempt.abandon()
        return [attempt for attempt in claimed if not attempt.stop]

    def _hear(self, attempts: Iterable[Attempt]) -> None:
        """Which of these have to stop. After a claim this is what lets it begin: an order that
        stood before the claim is seen.
        """
        jobs: dict[JobKeys, list[Attempt]] = {}
        for attempt in attempts:
            jobs.setdefault(attempt.keys, []).append(attempt)
        for keys, ours in jobs.items():
            control = read_control(self._ledger, keys)
            for attempt in ours:
                if control.is_deleted(attempt.place.index):
                    attempt.stop = "deleted"
                elif control.cancelled:
                    attempt.stop = attempt.stop or "cancelled"

    def _claim_one(self) -> Attempt | None:
        self._look()
        in_hand = Counter(attempt.keys.tenant for attempt in self._in_hand)
        for tenant in self._turns.order(self._queue, in_hand):
            for keys in self._jobs_of(tenant):
                if attempt := self._claim_of(keys):
                    self._turns.served(tenant)
                    return attempt
        return None

    def _look(self) -> None:
        now = self._ledger.clock()
        if now - self._looked <= self._ledger.settings.look:
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
            jobs = [
                JobKeys(tenant, waiting[place])
                for start in range(0, len(waiting), _NEAR)
                for place in self._chance.sample(
                    range(start, min(start + _NEAR, len(waiting))),
                    min(_NEAR, len(waiting) - start),
                )
            ]
            self._queue[tenant] = jobs
            known = set(jobs)
            self._jobs = {
                k: one for k, one in self._jobs.items() if k.tenant != tenant or k in known
            }
        return jobs

    def _claim_of(self, keys: JobKeys) -> Attempt | None:
        candidates = self._jobs.get(keys)
        if candidates is None:
            candidates = self._jobs[keys] = Candidates(self._ledger, keys, self._chance)
        try:
            if not self._accepts(candidates.spec.record):
                return None
            return self._first_of(candidates)
        except (DamagedRecordError, DeletedError, UnknownJobError):
            return None  # The supervisor mends or reports it; other jobs are no worse for it.

    def _first_of(self, candidates: Candidates) -> Attempt | None:
        not_now: list[Candidate] = []
        attempt = None
        while attempt is None and (candidate := candidates.next()):
            keys, spec = candidates.keys, candidates.spec
            earlier = read_ends(self._ledger, keys, candidate.place, candidate.number - 1)
            failures = count_failures(earlier)
            if failures >= spec.record.max_attempts or candidate.number > MAX_ATTEMPTS:
                fail_exhausted(self._ledger, keys, candidate.place, earlier)
                continue
            # One that was in hand when workers died may be the cause. Its last attempt is alone,
            # so that it takes no other with it for good.
            alone = failures == spec.record.max_attempts - 1 and any(
                ended.cause == "lost" for ended in earlier
            )
            if alone and self._in_hand:
                not_now.append(candidate)
                continue
            attempt = self._try(candidates, candidate, earlier, alone)
        for candidate in not_now:
            candidates.put_back(candidate)
        return attempt

    def _try(
        self,
        candidates: Candidates,
        candidate: Candidate,
        earlier: tuple[EndedRecord, ...],
        alone: bool,
    ) -> Attempt | None:
        keys, spec = candidates.keys, candidates.spec
        place, number = candidate.place, candidate.number
        attempt = Attempt(
            ledger=self._ledger,
            lease=self.lease,
            keys=keys,
            place=place,
            number=number,
            item=spec.item(place.index),
            shared=spec.shared,
            max_attempts=spec.record.max_attempts,
            alone=alone,
            earlier=earlier,
            resume=None,
        )
        # Named before it is claimed, so that no renewal after the claim leaves it out.
        self.lease.hold(attempt.held)
        try:
            record = ClaimRecord(nonce=self._ledger.ids.nonce(), worker=self.lease.worker)
            if not self._ledger.create(keys.attempt(place, number), pack(record)):
                self.lease.drop(attempt.held)
                return None
            if number > 1:
                if self._ledger.exists(keys.result(place)):
                    self.lease.drop(attempt.held)
                    return None
                attempt.resume = latest_checkpoint(self._ledger, keys, place)
        except BaseException:
            self.lease.drop(attempt.held)
            raise
        return attempt
