"""Deletion, for good: an order first, which stops all that begins later, then tombstones over what
there is, which all that runs still meets at its commit.

Each of these may end half-way: the order stands, and calling again, or a sweep, does the rest.
"""

from contextlib import suppress

from services.contracts.jobs import Kind
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger import keys as layout
from services.ledger.checkpoints import remove_checkpoints
from services.ledger.ids import is_job_id, parse_token_id
from services.ledger.jobs import issue_command, read_commands, read_job, read_retried_items
from services.ledger.keys import ItemRef, JobKeys, parse_item_ref
from services.ledger.ledger import Ledger
from services.ledger.queue import enqueue
from services.ledger.records import Tombstone, is_tombstone, pack


def delete_token(ledger: Ledger, tenant: str, token: str, by: str = "") -> None:
    """Delete a learned token, and all else that its item has made.

    Raises: InvalidIdError, UnknownJobError. Of a job that was deleted, it is deleted.
    """
    job, round_, index = parse_token_id(token)
    if not ledger.exists(JobKeys(tenant, job).result(ItemRef(round_, index))):
        raise UnknownJobError(f"{tenant} has no token {token}")
    try:
        delete_item(ledger, tenant, job, index, by, "training")
    except DeletedError:
        finish_job(ledger, JobKeys(tenant, job))


def delete_item(
    ledger: Ledger, tenant: str, job: str, index: int, by: str = "", kind: Kind | None = None
) -> None:
    """Delete one item's results and checkpoints, of every round, whether it has ended or not.
    kind: that its job has to be of.

    Raises: UnknownJobError, DeletedError (of the whole job).
    """
    keys = JobKeys(tenant, job)
    count = read_job(ledger, keys, kind)[1].count
    if not 0 <= index < count:
        raise UnknownJobError(f"job {job} has no item {index}")
    issue_command(ledger, keys.item_deletion(index), by)
    for place in item_in_all_rounds(ledger, keys, index, count):
        finish_item(ledger, keys, place)


def delete_job(
    ledger: Ledger, tenant: str, job: str, by: str = "", kind: Kind | None = None
) -> None:
    """Delete a job with all that it has made. Again is fine. kind: that it has to be of, as far as
    that can be read.

    Raises: UnknownJobError.
    """
    keys = JobKeys(tenant, job)
    pool: str | None = None
    with suppress(DamagedRecordError, DeletedError):
        pool = read_job(ledger, keys, kind)[1].pool
    issue_command(ledger, keys.deletion, by)
    if pool:
        # If this ends half-way, the supervisor goes on with what is queued.
        enqueue(ledger, pool, tenant, job)
    finish_job(ledger, keys)


def delete_tenant(ledger: Ledger, tenant: str, by: str = "") -> None:
    """Delete a tenant with all its data, and let it make no more. Again is fine."""
    issue_command(ledger, layout.tenant_deletion_key(tenant), by)
    finish_tenant(ledger, tenant)


def item_in_all_rounds(ledger: Ledger, keys: JobKeys, index: int, count: int) -> list[ItemRef]:
    """The rounds that one of a job's `count` items is in. Read after the order to delete it: a
    round that is made later begins nothing with it.
    """
    retries = [
        round_
        for round_ in range(1, read_commands(ledger, keys).retries + 1)
        if index in read_retried_items(ledger, keys, round_, count)
    ]
    return [ItemRef(round_, index) for round_ in (0, *retries)]


def finish_item(ledger: Ledger, keys: JobKeys, place: ItemRef) -> None:
    """Put a tombstone over an item's result, or in its place, in a round."""
    _bury(ledger, keys.result(place))
    remove_checkpoints(ledger, keys, place)


def finish_job(ledger: Ledger, keys: JobKeys) -> None:
    """Do what the order to delete a job says. Tombstones stay where a worker that was stopped may
    wake up one day, and commit.
    """
    if (found := ledger.find(keys.spec)) and not is_tombstone(found[1]):
        ledger.compare_and_swap(keys.spec, pack(Tombstone(nonce=ledger.ids.nonce())), found[0].etag)
    begun: set[ItemRef] = set()
    for prefix in (keys.attempts, keys.results):
        for head in ledger.heads(prefix):
            with suppress(DamagedRecordError):
                begun.add(parse_item_ref(head.key[len(prefix) :])[0])
    ledger.gather(lambda place: _bury(ledger, keys.result(place)), sorted(begun))
    rest = [
        head.key
        for prefix in (keys.checkpoints, keys.attempts, keys.rollup)
        for head in ledger.heads(prefix)
    ]
    ledger.gather(ledger.store.delete, rest)


def finish_tenant(ledger: Ledger, tenant: str) -> None:
    """Do what the order to delete a tenant says."""
    for job in filter(is_job_id, list(ledger.folders(layout.jobs_folder(tenant)))):
        keys = JobKeys(tenant, job)
        issue_command(ledger, keys.deletion, "")
        finish_job(ledger, keys)
    jobs, kept = layout.jobs_folder(tenant), layout.tenant_deletion_key(tenant)
    rest = [
        head.key
        for head in ledger.heads(layout.tenant_folder(tenant))
        if head.key != kept and not head.key.startswith(jobs)
    ]
    ledger.gather(ledger.store.delete, rest)


def _bury(ledger: Ledger, key: str) -> None:
    while True:
        tombstone = pack(Tombstone(nonce=ledger.ids.nonce()))
        if not (found := ledger.find(key)):
            if ledger.create_once(key, tombstone):
                return
            continue
        head, body = found
        if is_tombstone(body) or ledger.compare_and_swap(key, tombstone, head.etag):
            return
