"""What has to be done again and again so that nothing is forgotten. Any process may do it, several
at once too; what one does twice is done once.

One job brought forward: attempts whose workers are gone get an end, and items without hope too.

All of this is safe to do by many at once, and whenever: it writes what is created once, or
tombstones.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.contracts.jobs import Counts, ItemState
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger import keys as layout
from services.ledger.deletion import finish_item, finish_job, finish_tenant, item_in_all_rounds
from services.ledger.ids import is_job_id, is_tenant_name
from services.ledger.jobs import read_commands, read_job, read_spec
from services.ledger.keys import ItemRef, JobKeys, parse_item_ref
from services.ledger.ledger import Ledger
from services.ledger.queue import all_queued, dequeue, enqueue
from services.ledger.records import JobRecord
from services.ledger.results import (
    count_failures,
    end_attempt,
    end_item,
    fail_exhausted,
    read_attempt_ends,
)
from services.ledger.rollups import (
    ItemStates,
    LatestAttempt,
    is_complete,
    read_item_states,
    save_rollup,
)
from services.ledger.workers import WorkerRegistry, remove_dead_leases


def recover_job(
    ledger: Ledger, keys: JobKeys, job: JobRecord, workforce: WorkerRegistry
) -> ItemStates:
    """End what has to be ended, and return how the job stands then."""
    standings = read_item_states(ledger, keys, job.count)
    if standings.commands.deleted:
        finish_job(ledger, keys)
    for place, survey in list(standings.open_items()):
        state = None
        standing = survey.attempts.get(place.index)
        if standings.commands.is_deleted(place.index):
            if not standings.commands.deleted:
                finish_item(ledger, keys, place)
            state = ItemState.DELETED
        elif standing is None:
            # Whoever claims it from now on sees the order, which stood before the survey.
            state = ItemState.CANCELLED if standings.commands.cancelled else None
        elif standing.ended or _is_over(ledger, keys, place, standing, workforce):
            state = _next_or_end(ledger, keys, job, place, standing, standings.commands.cancelled)
        if state:
            standings.final.record(place, state)
            standings.newly_ended += 1
    return standings


def _is_over(
    ledger: Ledger,
    keys: JobKeys,
    place: ItemRef,
    standing: LatestAttempt,
    workforce: WorkerRegistry,
) -> bool:
    """Whether an attempt is in nobody's hands any more; if so, it is given its end."""
    lease = timedelta(seconds=ledger.settings.lease_s)
    if standing.age < lease / 2:
        return False  # Its worker's lease was fresh when it claimed.
    worker = workforce.claimant(keys.attempt(place, standing.number))
    if worker is None:
        return False
    living = workforce.find_live(worker)
    if living is None and workforce.has_released(worker):
        reason = f"worker {worker} has ended without it"
        end_attempt(ledger, keys, place, standing.number, "released", reason)
        return True
    if living is None:
        reason = f"worker {worker or '(unreadable)'} was killed, or did not renew its lease"
        end_attempt(ledger, keys, place, standing.number, "lost", reason)
        return True
    if living.has_attempt(keys, place, standing.number):
        return False
    if living.renewed - standing.since < lease:
        return False  # What it renewed may have been written before the claim.
    reason = f"worker {worker} lives, but has it not in hand"
    end_attempt(ledger, keys, place, standing.number, "released", reason)
    return True


def _next_or_end(
    ledger: Ledger,
    keys: JobKeys,
    job: JobRecord,
    place: ItemRef,
    standing: LatestAttempt,
    cancelled: bool,
) -> ItemState | None:
    """After an attempt that came to nothing: None if another may follow."""
    if cancelled:
        return end_item(ledger, keys, place, "cancelled", standing.number)
    if standing.number < job.max_attempts:
        return None
    ends = read_attempt_ends(ledger, keys, place, standing.number)
    if count_failures(ends) < job.max_attempts:
        return None
    return fail_exhausted(ledger, keys, place, ends)


@dataclass
class RecoveryReport:
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


class Recovery:
    """Brings all queued jobs forward (`recover`, every few seconds), and mends what crashes left
    behind (`sweep`, at the start and every hour or so).
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._workforce = WorkerRegistry(ledger)

    def recover(self) -> RecoveryReport:
        """Go through the queue once. Raises: UnavailableError: call it again."""
        self._workforce.refresh()
        queued = all_queued(self._ledger)
        self._ledger.gather(self._finish_if_deleted, sorted({tenant for _, tenant, _ in queued}))
        seen = RecoveryReport(jobs=len(queued))
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
        remove_dead_leases(self._ledger)
        return seen

    def sweep(self) -> dict[str, str]:
        """Go through all jobs of all tenants: put hints back for those that have not ended, finish
        deletions, remove checkpoints of items that have ended. Returns the jobs whose records are
        damaged, and why; the others are swept all the same.

        Raises: UnavailableError: call it again.
        """
        damaged: dict[str, str] = {}
        for tenant in filter(is_tenant_name, list(self._ledger.folders(layout.TENANTS_FOLDER))):
            if self._finish_if_deleted(tenant):
                continue
            for job in filter(is_job_id, list(self._ledger.folders(layout.jobs_folder(tenant)))):
                try:
                    self._sweep_job(JobKeys(tenant, job))
                except DamagedRecordError as error:
                    damaged[job] = str(error)
        return damaged

    def _finish_if_deleted(self, tenant: str) -> bool:
        """Whether a tenant was deleted; whoever did it may have been killed on the way."""
        deleted = self._ledger.exists(layout.tenant_deletion_key(tenant))
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
        left = sum(1 for _ in standings.open_items())
        if standings.newly_ended or (left == 0) != standings.complete:
            save_rollup(self._ledger, standings, complete=left == 0)
        if left == 0:
            dequeue(self._ledger, pool, keys.tenant, keys.job)
            # A retry that was asked for meanwhile has put a hint there, which is gone now.
            if read_commands(self._ledger, keys).retries > standings.commands.retries:
                enqueue(self._ledger, pool, keys.tenant, keys.job)
        return Counts.of(standings.states())

    def _sweep_job(self, keys: JobKeys) -> None:
        control = read_commands(self._ledger, keys)
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
            for place in item_in_all_rounds(self._ledger, keys, index, job.count):
                finish_item(self._ledger, keys, place)
        if not complete:
            self._requeue(keys, job)
        self._remove_checkpoints(keys)

    def _requeue(self, keys: JobKeys, job: JobRecord) -> None:
        if self._ledger.exists(layout.queue_entry_key(job.pool, keys.tenant, keys.job)):
            return
        # Again after the job was seen: whoever deleted its tenant meanwhile may have looked before
        # it was submitted.
        if not self._ledger.exists(layout.tenant_deletion_key(keys.tenant)):
            enqueue(self._ledger, job.pool, keys.tenant, keys.job)

    def _remove_checkpoints(self, keys: JobKeys) -> None:
        for head in self._ledger.heads(keys.checkpoints):
            place, _ = parse_item_ref(head.key[len(keys.checkpoints) :])
            if self._ledger.exists(keys.result(place)):
                self._ledger.store.delete(head.key)


def _add(seen: RecoveryReport, pool: str, left: _Left) -> None:
    seen.open_items[pool] = seen.open_items.get(pool, 0) + left.open_items
    seen.open_jobs[pool] = seen.open_jobs.get(pool, 0) + (left.open_items > 0)
    if left.counts.queued:
        seen.oldest[pool] = min(left.submitted, seen.oldest.get(pool, left.submitted))
    both = zip(seen.counts, left.counts, strict=True)
    seen.counts = Counts(**{name: ours + theirs for (name, ours), (_, theirs) in both})
