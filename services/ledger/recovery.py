"""Recovery: what the supervisor does again and again, so that no crash leaves anything behind.

`Recovery.recover` goes through the queue: it ends the attempts of dead workers, ends items whose
attempts are used up, and updates the rollups. `Recovery.sweep` goes through all jobs: it restores
lost queue entries and finishes deletions that died half-way.

Any number of processes may do so at any time. All that they write is created once, or is a
tombstone, so that doing it twice does it once.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from services import metrics
from services.contracts.jobs import Counts, ItemState
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger import uploads
from services.ledger.deletion import finish_item, finish_job, finish_tenant, item_in_all_rounds
from services.ledger.ids import is_job_id, is_tenant_name
from services.ledger.item_results import (
    count_failures,
    end_attempt,
    end_item,
    fail_exhausted,
    read_attempt_ends,
)
from services.ledger.jobs import read_commands, read_job, read_spec
from services.ledger.keys import (
    TENANTS_FOLDER,
    ItemRef,
    JobKeys,
    jobs_folder,
    parse_item_ref,
    queue_entry_key,
    tenant_deletion_key,
)
from services.ledger.ledger import Ledger
from services.ledger.queue import all_queued, dequeue, enqueue
from services.ledger.records import JobRecord
from services.ledger.rollups import (
    ItemStates,
    LatestAttempt,
    is_complete,
    read_item_states,
    save_rollup,
)
from services.ledger.workers import WorkerRegistry, remove_dead_leases


def recover_job(
    ledger: Ledger, keys: JobKeys, job: JobRecord, workers: WorkerRegistry
) -> ItemStates:
    """End the attempts and items of a job that have to be ended, and return its states then."""
    states = read_item_states(ledger, keys, job.count)
    commands = states.commands
    if commands.deleted:
        finish_job(ledger, keys)
    # A list, because the loop records final states, on which `open_items` depends.
    for item, scan in list(states.open_items()):
        state = None
        latest = scan.attempts.get(item.index)
        if commands.is_deleted(item.index):
            if not commands.deleted:
                finish_item(ledger, keys, item)
            state = ItemState.DELETED
        elif latest is None:
            # A worker that claims it from now on sees the command, which is older than the scan.
            state = ItemState.CANCELLED if commands.cancelled else None
        elif latest.ended or _end_if_orphaned(ledger, keys, item, latest, workers):
            state = _end_item_if_exhausted(
                ledger, keys, job, item, latest, is_cancelled=commands.cancelled
            )
        if state:
            states.final.record(item, state)
            states.newly_ended += 1
            # An item that no worker has had: a worker counts the subjects that end with it.
            if latest is None and job.kind == "training":
                metrics.current().count("dti_subjects_total", outcome=state)
    return states


def _end_if_orphaned(
    ledger: Ledger, keys: JobKeys, item: ItemRef, latest: LatestAttempt, workers: WorkerRegistry
) -> bool:
    """End an attempt that no living worker holds, and return whether it has ended."""
    if latest.age < timedelta(seconds=ledger.settings.lease_s / 2):
        # A worker claims only while its lease is fresh: it cannot have expired since. This saves
        # reading the lease.
        return False
    worker = workers.claimant(keys.attempt(item, latest.number))
    # The claim went with its deleted job.
    if worker is None:
        return False
    live = workers.find_live(worker)
    if live is None and workers.has_released(worker):
        reason = f"worker {worker} has ended without it"
        _end_attempt(ledger, keys, item, latest, "released", reason)
        return True
    if live is None:
        reason = f"worker {worker or '(unreadable)'} was killed, or did not renew its lease"
        _end_attempt(ledger, keys, item, latest, "lost", reason)
        return True
    if live.has_attempt(keys, item, latest.number):
        return False
    if live.renewed_at - latest.since < ledger.settings.lease_s:
        # The renewal may be older than the claim: a request can arrive that much later.
        return False
    # The worker lost the answer to its claim, so that it does not know of this attempt.
    reason = f"worker {worker} lives, but does not hold it"
    _end_attempt(ledger, keys, item, latest, "released", reason)
    return True


def _end_attempt(
    ledger: Ledger,
    keys: JobKeys,
    item: ItemRef,
    latest: LatestAttempt,
    cause: Literal["lost", "released"],
    reason: str,
) -> None:
    """End an attempt, and count it unless its worker or another supervisor was faster."""
    if end_attempt(ledger, keys, item, latest.number, cause, reason):
        metrics.current().count("dti_attempts_total", cause=cause)


def _end_item_if_exhausted(
    ledger: Ledger,
    keys: JobKeys,
    job: JobRecord,
    item: ItemRef,
    latest: LatestAttempt,
    *,
    is_cancelled: bool,
) -> ItemState | None:
    """Return an item's final state after an attempt without a result; None if it goes on."""
    if is_cancelled:
        return end_item(ledger, keys, item, "cancelled", latest.number)
    if latest.number < job.max_attempts:
        return None
    ends = read_attempt_ends(ledger, keys, item, latest.number)
    if count_failures(ends) < job.max_attempts:
        return None
    state = fail_exhausted(ledger, keys, item, ends)
    if ends[-1].cause == "lost" and state is ItemState.FAILED and job.kind == "training":
        # The worker was killed, so that it could not count the subject.
        metrics.current().count("dti_subjects_total", outcome=state)
    return state


@dataclass
class RecoveryReport:
    """The findings of one pass over the queue."""

    jobs: int = 0
    finished: int = 0
    """Jobs that have left the queue, also by deletion."""
    open_items: dict[str, int] = field(default_factory=dict)
    """Items that have not ended, by pool: the size of a pool follows from them."""
    open_jobs: dict[str, int] = field(default_factory=dict)
    """Jobs with such items, by pool."""
    oldest: dict[str, datetime] = field(default_factory=dict)
    """When the oldest job with queued items was submitted, by pool."""
    counts: Counts = field(default_factory=Counts)
    """The states of all items of these jobs."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Jobs that could not be recovered, and why; the others were."""

    def add(self, pool: str, submitted: datetime, counts: Counts) -> None:
        """Add a job that exists."""
        open_items = counts.queued + counts.running
        self.open_items[pool] = self.open_items.get(pool, 0) + open_items
        self.open_jobs[pool] = self.open_jobs.get(pool, 0) + (open_items > 0)
        if counts.queued:
            self.oldest[pool] = min(submitted, self.oldest.get(pool, submitted))
        pairs = zip(self.counts, counts, strict=True)
        self.counts = Counts(**{name: total + more for (name, total), (_, more) in pairs})


class Recovery:
    """The recovery of all jobs: `recover` every few seconds, `sweep` at start and every hour."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._workers = WorkerRegistry(ledger)

    def recover(self) -> RecoveryReport:
        """Recover all queued jobs once.

        Raises:
            UnavailableError: The store did not answer: call it again.
        """
        self._workers.refresh()
        queued = all_queued(self._ledger)
        # Only tenants in the queue: a job of any other tenant cannot begin, and waits for a sweep.
        self._ledger.gather(self._finish_if_deleted, sorted({tenant for _, tenant, _ in queued}))
        report = RecoveryReport(jobs=len(queued))
        recovered = self._ledger.gather(self._recover_queued, queued)
        for (pool, _, job), outcome in zip(queued, recovered, strict=True):
            if isinstance(outcome, DamagedRecordError):
                report.damaged[job] = str(outcome)
                continue
            if outcome is None:
                report.finished += 1
                continue
            submitted, counts = outcome
            report.finished += counts.ended == counts.total
            report.add(pool, submitted, counts)
        remove_dead_leases(self._ledger)
        return report

    def sweep(self) -> dict[str, str]:
        """Sweep all jobs of all tenants, and return the damaged ones with the reason.

        It restores the queue entries of jobs that have not ended, finishes deletions, and removes
        checkpoints of items that have ended, and uploads that came after their deletion.

        Raises:
            UnavailableError: The store did not answer: call it again.
        """
        damaged: dict[str, str] = {}
        for tenant in filter(is_tenant_name, list(self._ledger.folders(TENANTS_FOLDER))):
            if self._finish_if_deleted(tenant):
                continue
            uploads.remove_late(self._ledger, tenant)
            for job in filter(is_job_id, list(self._ledger.folders(jobs_folder(tenant)))):
                try:
                    self._sweep_job(JobKeys(tenant, job))
                except DamagedRecordError as error:
                    damaged[job] = str(error)
        return damaged

    def _finish_if_deleted(self, tenant: str) -> bool:
        """Return whether a tenant was deleted, and finish the deletion, which may have died."""
        is_deleted = self._ledger.exists(tenant_deletion_key(tenant))
        if is_deleted:
            finish_tenant(self._ledger, tenant)
        return is_deleted

    def _recover_queued(
        self, entry: tuple[str, str, str]
    ) -> tuple[datetime, Counts] | DamagedRecordError | None:
        """Recover the job of a queue entry; return its time and counts, or None if it is gone."""
        pool, tenant, job = entry
        keys = JobKeys(tenant, job)
        try:
            submitted, record = read_job(self._ledger, keys)
            return submitted, self._recover_job(keys, record, pool)
        except DeletedError:
            finish_job(self._ledger, keys)
        except UnknownJobError:
            pass
        except DamagedRecordError as error:
            return error
        dequeue(self._ledger, pool, tenant, job)
        return None

    def _recover_job(self, keys: JobKeys, job: JobRecord, pool: str) -> Counts:
        states = recover_job(self._ledger, keys, job, self._workers)
        is_done = next(states.open_items(), None) is None
        if states.newly_ended or is_done != states.complete:
            save_rollup(self._ledger, states, complete=is_done)
        # After the rollup: a crash in between leaves a stale queue entry, which the next pass
        # removes. In the other order it would leave a finished job without a complete rollup, which
        # a sweep would queue again.
        if is_done:
            dequeue(self._ledger, pool, keys.tenant, keys.job)
            # A retry in the meantime has written a queue entry, which is removed now: restore it.
            if read_commands(self._ledger, keys).retries > states.commands.retries:
                enqueue(self._ledger, pool, keys.tenant, keys.job)
        return Counts.of(states.states())

    def _sweep_job(self, keys: JobKeys) -> None:
        commands = read_commands(self._ledger, keys)
        if commands.deleted:
            finish_job(self._ledger, keys)
            return
        try:
            _, job = read_job(self._ledger, keys)
            complete = is_complete(self._ledger, keys, commands, job.count)
            if not complete:
                read_spec(self._ledger, keys)  # Workers skip a damaged spec silently: report it.
        except UnknownJobError:
            return
        except DeletedError:
            finish_job(self._ledger, keys)
            return
        for index in commands.deleted_items:
            for item in item_in_all_rounds(self._ledger, keys, index, job.count):
                finish_item(self._ledger, keys, item)
        if not complete:
            self._requeue(keys, job)
        self._remove_checkpoints(keys)

    def _requeue(self, keys: JobKeys, job: JobRecord) -> None:
        if self._ledger.exists(queue_entry_key(job.pool, keys.tenant, keys.job)):
            return
        # Checked after the job was seen: a deletion of its tenant may have listed the jobs before
        # this one was submitted.
        if not self._ledger.exists(tenant_deletion_key(keys.tenant)):
            enqueue(self._ledger, job.pool, keys.tenant, keys.job)

    def _remove_checkpoints(self, keys: JobKeys) -> None:
        for head in self._ledger.heads(keys.checkpoints):
            item, _ = parse_item_ref(head.key[len(keys.checkpoints) :])
            if self._ledger.exists(keys.result(item)):
                self._ledger.store.delete(head.key)
