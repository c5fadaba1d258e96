"""What clients ask for: to make a job, cancel it, or try its failed items again."""

from dataclasses import dataclass

from services.contracts.jobs import ItemState, JobRequest, Kind
from services.errors import ConflictError, DeletedError
from services.ledger import keys as layout
from services.ledger.deletion import finish_job
from services.ledger.ids import check_tenant_name
from services.ledger.jobs import issue_command, pack_item_indices, pack_spec, read_job
from services.ledger.keys import JobKeys
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
    """By this call; False: an earlier one with the same key did."""


def submit(ledger: Ledger, tenant: str, key: str, request: JobRequest) -> Submission:
    """Make a job, once for all calls with this `key`. When it returns, the job is kept and will be
    found by workers. After any error, call it again.

    Raises: ConflictError if the key made a job of another request; DeletedError if that job, or
    the tenant, was deleted since.
    """
    check_tenant_name(tenant)
    if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise ConflictError(
            f"the Idempotency-Key has {len(key)} characters: give 1 to {MAX_IDEMPOTENCY_KEY}"
        )
    if ledger.exists(layout.tenant_deletion_key(tenant)):
        raise DeletedError(f"tenant {tenant} was deleted")
    job = _accept(ledger, tenant, key, request.digest())
    keys = JobKeys(tenant, job)
    created = ledger.create_once(keys.spec, pack_spec(request, ledger.ids.nonce())) is not None
    if not created:
        read_job(ledger, keys)
    # Again after the spec, so that whoever deletes the tenant sees the job, or we see that they do;
    # and before the hint, so that no worker has found it by then.
    if ledger.exists(layout.tenant_deletion_key(tenant)):
        issue_command(ledger, keys.deletion, "")
        finish_job(ledger, keys)
        raise DeletedError(f"tenant {tenant} was deleted")
    enqueue(ledger, request.pool, tenant, job)
    return Submission(job, created)


def cancel(ledger: Ledger, tenant: str, job: str, by: str = "", kind: Kind | None = None) -> bool:
    """End a job early: no attempt begins from now on, and those that run are stopped. What has
    succeeded stays. Whether it was this call that did it. kind: that the job has to be of.

    Raises: UnknownJobError, DeletedError.
    """
    keys = JobKeys(tenant, job)
    read_job(ledger, keys, kind)
    return issue_command(ledger, keys.cancellation, by)


def retry(ledger: Ledger, tenant: str, job: str, by: str = "", kind: Kind | None = None) -> int:
    """Let the failed items of a job be tried again, as often as at first, and return how many.
    kind: that the job has to be of.

    Raises: ConflictError if the job was cancelled; UnknownJobError, DeletedError.
    """
    keys = JobKeys(tenant, job)
    _, record = read_job(ledger, keys, kind)
    while True:
        standings = read_item_states(ledger, keys, record.count)
        if standings.commands.cancelled:
            raise ConflictError(f"job {job} was cancelled: submit its items anew")
        failed = [i for i, state in enumerate(standings.states()) if state is ItemState.FAILED]
        if not failed:
            if any(place.round for place, _ in standings.open_items()):
                # An earlier call may have ended between order and hint.
                enqueue(ledger, record.pool, tenant, job)
            return 0
        round_ = standings.commands.retries + 1
        if round_ >= layout.MAX_ROUNDS:
            raise ConflictError(
                f"job {job} was retried {round_ - 1} times, which is all: submit its items anew"
            )
        if issue_command(ledger, keys.retry(round_), by, pack_item_indices(failed)):
            # After the order: whoever takes the hint away because all had ended, looks once more.
            enqueue(ledger, record.pool, tenant, job)
            return len(failed)


def _accept(ledger: Ledger, tenant: str, key: str, digest: str) -> str:
    """The job that belongs to a key, from now on if need be."""
    place = layout.idempotency_key(tenant, key)
    ours = AcceptedRecord(nonce=ledger.ids.nonce(), digest=digest, job=ledger.ids.job())
    if ledger.create_once(place, pack(ours)):
        return ours.job
    if not (found := ledger.find(place)):
        raise DeletedError(f"tenant {tenant} was deleted")
    theirs, _ = unpack(place, found[1], AcceptedRecord)
    if theirs.digest != digest:
        raise ConflictError(
            f"Idempotency-Key {key!r} was used for another request, which made job {theirs.job}: "
            "use a new key for a new request"
        )
    return theirs.job
