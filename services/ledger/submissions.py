"""Client operations that write: submit, cancel and retry a job."""

from collections.abc import Collection
from dataclasses import dataclass

from services.contracts.jobs import ItemState, JobRequest, Kind
from services.errors import ConflictError, DamagedRecordError, DeletedError
from services.ledger.deletion import finish_job
from services.ledger.ids import check_tenant_name
from services.ledger.jobs import issue_command, pack_item_indices, pack_spec, read_job
from services.ledger.keys import (
    MAX_ROUNDS,
    JobKeys,
    idempotency_folder,
    idempotency_key,
    tenant_deletion_key,
)
from services.ledger.ledger import Ledger
from services.ledger.queue import enqueue
from services.ledger.records import AcceptedRecord, pack, unpack
from services.ledger.rollups import read_item_states

MAX_IDEMPOTENCY_KEY = 255
"""Characters of an Idempotency-Key."""


@dataclass(frozen=True, slots=True)
class Submission:
    """The job that a request made."""

    job: str
    created: bool
    """Whether this call made it; False if an earlier one with the same key did."""


def submit(ledger: Ledger, tenant: str, key: str, request: JobRequest) -> Submission:
    """Make a job, once for all calls with the Idempotency-Key `key`.

    When it returns, the job is stored and workers will find it. After any error it can be called
    again.

    Raises:
        ConflictError: The key is too long, or was used for another request.
        DeletedError: The job of the key, or the tenant, was deleted.
    """
    check_tenant_name(tenant)
    if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise ConflictError(
            f"the Idempotency-Key has {len(key)} characters: give 1 to {MAX_IDEMPOTENCY_KEY}"
        )
    if ledger.exists(tenant_deletion_key(tenant)):
        raise DeletedError(f"tenant {tenant} was deleted")
    # The key first: it fixes the job's id, so that every later call writes the same objects.
    job = _accept(ledger, tenant, key, request.digest())
    keys = JobKeys(tenant, job)
    spec = pack_spec(request, ledger.ids.nonce(), ledger.store.now())
    created = ledger.create_once(keys.spec, spec) is not None
    # The same key must not seem to bring a deleted job back: this raises DeletedError.
    if not created:
        read_job(ledger, keys)
    # Checked again after the spec: either the deletion of the tenant lists this job, or the job
    # sees the deletion. And checked before the queue entry, so that no worker has found it by then.
    if ledger.exists(tenant_deletion_key(tenant)):
        issue_command(ledger, keys.deletion, "")
        finish_job(ledger, keys)
        raise DeletedError(f"tenant {tenant} was deleted")
    enqueue(ledger, request.pool, tenant, job)
    return Submission(job, created)


def cancel(ledger: Ledger, tenant: str, job: str, by: str = "", kind: Kind | None = None) -> bool:
    """Cancel a job, and return whether this call did it.

    No attempt begins from now on, and running ones are stopped. What has succeeded stays.

    Raises:
        UnknownJobError: There is no such job, or it is of another kind.
        DeletedError: The job was deleted.
    """
    keys = JobKeys(tenant, job)
    read_job(ledger, keys, kind)
    return issue_command(ledger, keys.cancellation, by)


def retry(ledger: Ledger, tenant: str, job: str, by: str = "", kind: Kind | None = None) -> int:
    """Try the failed items of a job again in a new round, and return how many they are.

    Each has `max_attempts` again.

    Raises:
        ConflictError: The job was cancelled, or was retried too often.
        UnknownJobError: There is no such job, or it is of another kind.
        DeletedError: The job was deleted.
    """
    keys = JobKeys(tenant, job)
    _, record = read_job(ledger, keys, kind)
    while True:
        states = read_item_states(ledger, keys, record.count)
        if states.commands.cancelled:
            raise ConflictError(f"job {job} was cancelled: submit its items as a new job")
        failed = [i for i, state in enumerate(states.states()) if state is ItemState.FAILED]
        if not failed:
            if any(item.round for item, _ in states.open_items()):
                # An earlier call may have died between the command and the queue entry.
                enqueue(ledger, record.pool, tenant, job)
            return 0
        round_ = states.commands.retries + 1
        if round_ >= MAX_ROUNDS:
            raise ConflictError(
                f"job {job} was retried {round_ - 1} times, which is the limit: submit its items "
                "as a new job"
            )
        # If another call makes this round first, read the states again: it has the same items.
        if issue_command(ledger, keys.retry(round_), by, pack_item_indices(failed)):
            # After the command: a supervisor that removes the entry, as all items had ended,
            # reads the commands once more afterwards.
            enqueue(ledger, record.pool, tenant, job)
            return len(failed)


def forget_submissions(ledger: Ledger, tenant: str, jobs: Collection[str]) -> int:
    """Remove the records of the Idempotency-Keys that made these jobs, and return their number.

    A request that repeats such a key makes a new job from then on.
    """
    heads = ledger.heads(idempotency_folder(tenant)) if jobs else []
    accepted = ledger.gather(lambda head: _accepted_job(ledger, head.key), heads)
    forgotten = [head.key for head, job in zip(heads, accepted, strict=True) if job in jobs]
    ledger.gather(ledger.store.delete, forgotten)
    return len(forgotten)


def _accepted_job(ledger: Ledger, object_key: str) -> str | None:
    if not (found := ledger.find(object_key)):
        return None
    try:
        return unpack(object_key, found[1], AcceptedRecord)[0].job
    except DamagedRecordError:
        return None


def _accept(ledger: Ledger, tenant: str, key: str, digest: str) -> str:
    """Return the job of an Idempotency-Key, which is a new one for a new key."""
    object_key = idempotency_key(tenant, key)
    ours = AcceptedRecord(nonce=ledger.ids.nonce(), digest=digest, job=ledger.ids.job())
    if ledger.create_once(object_key, pack(ours)):
        return ours.job
    # The object was there a moment ago: its tenant was deleted, or its job was erased.
    if not (found := ledger.find(object_key)):
        if ledger.exists(tenant_deletion_key(tenant)):
            raise DeletedError(f"tenant {tenant} was deleted")
        return _accept(ledger, tenant, key, digest)
    stored, _ = unpack(object_key, found[1], AcceptedRecord)
    if stored.digest != digest:
        raise ConflictError(
            f"Idempotency-Key {key!r} was used for another request, which made job {stored.job}: "
            "use a new key for a new request"
        )
    return stored.job
