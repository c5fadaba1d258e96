"""What has to be done again and again so that nothing is forgotten. Any process may do it, several
at once too; what one does twice is done once.
"""

from dataclasses import dataclass, field
from datetime import datetime

from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.jobs import Counts
from services.ledger import layout
from services.ledger.control import read_control
from services.ledger.deletion import finish_item, finish_job, finish_tenant, places_of
from services.ledger.ids import is_job, is_tenant
from services.ledger.layout import JobKeys, parse_place
from services.ledger.ledger import Ledger
from services.ledger.queue import all_queued, dequeue, enqueue
from services.ledger.records import JobRecord
from services.ledger.recovery import recover_job
from services.ledger.rollups import is_complete, save
from services.ledger.specs import read_job, read_spec
from services.ledger.workforce import Workforce, forget_the_dead


@dataclass
class Pass:
    """What was seen while the queue was gone through."""

    jobs: int = 0
    finished: int = 0
    """Jobs that are in the queue no more, also because they were deleted."""
    open_items: dict[str, int] = field(default_factory=dict)
    """Items that have not ended, by pool: what the size of a pool goes by."""
    open_jobs: dict[str, int] = field(default_factory=dict)
    """Jobs that have such items, by pool."""
    oldest: dict[str, datetime] = field(default_factory=dict)
    """When the oldest job of a pool was submitted that has items nobody has begun."""
    counts: Counts = field(default_factory=Counts)
    """Of all items of these jobs."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Jobs that could not be brought forward, and why; the others were."""


@dataclass(frozen=True, slots=True)
class _Left:
    """How a queued job stands."""

    submitted: datetime
    counts: Counts

    @property
    def open_items(self) -> int:
        return self.counts.queued + self.counts.running


class Supervisor:
    """Brings all queued jobs forward (`recover`, every few seconds), and mends what crashes left
    behind (`sweep`, at the start and every hour or so).
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._workforce = Workforce(ledger)

    def recover(self) -> Pass:
        """Go through the queue once. Raises: UnavailableError: call it again."""
        self._workforce.look_again()
        queued = all_queued(self._ledger)
        self._ledger.gather(self._finish_if_deleted, sorted({tenant for _, tenant, _ in queued}))
        seen = Pass(jobs=len(queued))
        for (pool, _, job), left in zip(
            queued, self._ledger.gather(self._bring_forward, queued), strict=True
        ):
            if isinstance(left, DamagedRecordError):
                seen.damaged[job] = str(left)
                continue
            if left is None or not left.open_items:
                seen.finished += 1
            if left is not None:
                _add(seen, pool, left)
        forget_the_dead(self._ledger)
        return seen

    def sweep(self) -> dict[str, str]:
        """Go through all jobs of all tenants: put hints back for those that have not ended, finish
        deletions, remove checkpoints of items that have ended. Returns the jobs whose records are
        damaged, and why; the others are swept all the same.

        Raises: UnavailableError: call it again.
        """
        damaged: dict[str, str] = {}
        for tenant in filter(is_tenant, list(self._ledger.folders(layout.TENANTS))):
            if self._finish_if_deleted(tenant):
                continue
            for job in filter(is_job, list(self._ledger.folders(layout.jobs_of(tenant)))):
                try:
                    self._sweep_job(JobKeys(tenant, job))
                except DamagedRecordError as error:
                    damaged[job] = str(error)
        return damaged

    def _finish_if_deleted(self, tenant: str) -> bool:
        """Whether a tenant was deleted; whoever did it may have been killed on the way."""
        deleted = self._ledger.exists(layout.tenant_deletion(tenant))
        if deleted:
            finish_tenant(self._ledger, tenant)
        return deleted

    def _bring_forward(self, hint: tuple[str, str, str]) -> _Left | DamagedRecordError | None:
        """How a queued job stands after what could be done was done; None: it is gone."""
        pool, tenant, job = hint
        keys = JobKeys(tenant, job)
        try:
            submitted, record = read_job(self._ledger, keys)
            return _Left(submitted, self._recover_job(keys, record, pool))
        except DeletedError:
            finish_job(self._ledger, keys)
        except UnknownJobError:
            pass
        except DamagedRecordError as error:
            return error
        dequeue(self._ledger, pool, tenant, job)
        return None

    def _recover_job(self, keys: JobKeys, job: JobRecord, pool: str) -> Counts:
        standings = recover_job(self._ledger, keys, job, self._workforce)
        left = sum(1 for _ in standings.open_places())
        if standings.found or (left == 0) != standings.complete:
            save(self._ledger, standings, complete=left == 0)
        if left == 0:
            dequeue(self._ledger, pool, keys.tenant, keys.job)
            # A retry that was asked for meanwhile has put a hint there, which is gone now.
            if read_control(self._ledger, keys).retries > standings.control.retries:
                enqueue(self._ledger, pool, keys.tenant, keys.job)
        return Counts.of(standings.states())

    def _sweep_job(self, keys: JobKeys) -> None:
        control = read_control(self._ledger, keys)
        if control.deleted:
            finish_job(self._ledger, keys)
            return
        try:
            _, job = read_job(self._ledger, keys)
            complete = is_complete(self._ledger, keys, control, job.count)
            if not complete:
                read_spec(self._ledger, keys)  # Workers pass over one that is damaged: report it.
        except UnknownJobError:
            return
        except DeletedError:
            finish_job(self._ledger, keys)
            return
        for index in control.deleted_items:
            for place in places_of(self._ledger, keys, index, job.count):
                finish_item(self._ledger, keys, place)
        if not complete:
            self._requeue(keys, job)
        self._remove_checkpoints(keys)

    def _requeue(self, keys: JobKeys, job: JobRecord) -> None:
        if self._ledger.exists(layout.hint(job.pool, keys.tenant, keys.job)):
            return
        # Again after the job was seen: whoever deleted its tenant meanwhile may have looked before
        # it was submitted.
        if not self._ledger.exists(layout.tenant_deletion(keys.tenant)):
            enqueue(self._ledger, job.pool, keys.tenant, keys.job)

    def _remove_checkpoints(self, keys: JobKeys) -> None:
        for head in self._ledger.heads(keys.checkpoints):
            place, _ = parse_place(head.key[len(keys.checkpoints) :])
            if self._ledger.exists(keys.result(place)):
                self._ledger.store.delete(head.key)


def _add(seen: Pass, pool: str, left: _Left) -> None:
    seen.open_items[pool] = seen.open_items.get(pool, 0) + left.open_items
    seen.open_jobs[pool] = seen.open_jobs.get(pool, 0) + (left.open_items > 0)
    if left.counts.queued:
        seen.oldest[pool] = min(left.submitted, seen.oldest.get(pool, left.submitted))
    both = zip(seen.counts, left.counts, strict=True)
    seen.counts = Counts(**{name: ours + theirs for (name, ours), (_, theirs) in both})
