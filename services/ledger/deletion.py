"""Deletion, which is final: a command stops new attempts, then tombstones replace the data.

A *tombstone* takes the place of a result, or the place where one would be created. An attempt that
still runs therefore fails at its commit, however late that comes: a deleted object would leave the
key free for it. Every function here may die half-way: the command stands, and calling it again, or
a sweep, does the rest.
"""

from contextlib import suppress

from services.contracts.jobs import Kind
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger.checkpoints import remove_checkpoints
from services.ledger.ids import is_job_id, parse_token_id
from services.ledger.jobs import issue_command, read_commands, read_job, read_retried_items
from services.ledger.keys import (
    ItemRef,
    JobKeys,
    jobs_folder,
    parse_item_ref,
    tenant_deletion_key,
    tenant_folder,
)
from services.ledger.ledger import Ledger
from services.ledger.queue import enqueue
from services.ledger.records import Tombstone, is_tombstone, pack


def delete_token(ledger: Ledger, tenant: str, token: str, by: str = "") -> None:
    """Delete a learned token, and everything else that its item has made.

    A token of a deleted job counts as deleted.

    Raises:
        InvalidIdError: The token's id is malformed.
        UnknownJobError: There is no such token.
    """
    job, round_, index = parse_token_id(token)
    if not ledger.exists(JobKeys(tenant, job).result(ItemRef(round_, index))):
        raise UnknownJobError(f"{tenant} has no token {token}")
    try:
        delete_item(ledger, tenant, job, index, by, "training")
    except DeletedError:
        # The deletion of the job may have died half-way, with this token still readable.
        finish_job(ledger, JobKeys(tenant, job))


def delete_item(
    ledger: Ledger, tenant: str, job: str, index: int, by: str = "", kind: Kind | None = None
) -> None:
    """Delete an item's results and checkpoints of every round, whether it has ended or not.

    Raises:
        UnknownJobError: There is no such job or item, or the job is of another kind.
        DeletedError: The whole job was deleted.
    """
    keys = JobKeys(tenant, job)
    count = read_job(ledger, keys, kind)[1].count
    if not 0 <= index < count:
        raise UnknownJobError(f"job {job} has no item {index}")
    issue_command(ledger, keys.item_deletion(index), by)
    for item in item_in_all_rounds(ledger, keys, index, count):
        finish_item(ledger, keys, item)


def delete_job(
    ledger: Ledger, tenant: str, job: str, by: str = "", kind: Kind | None = None
) -> None:
    """Delete a job with everything that it has made. Deleting it again is fine.

    Raises:
        UnknownJobError: There is no such job, or it is of another kind, as far as that is readable.
    """
    keys = JobKeys(tenant, job)
    pool: str | None = None
    with suppress(DamagedRecordError, DeletedError):
        pool = read_job(ledger, keys, kind)[1].pool
    issue_command(ledger, keys.deletion, by)
    if pool:
        # If this call dies half-way, the supervisor finishes the deletion of a queued job.
        enqueue(ledger, pool, tenant, job)
    finish_job(ledger, keys)


def delete_tenant(ledger: Ledger, tenant: str, by: str = "") -> None:
    """Delete a tenant with all its data, and let it make no more. Deleting it again is fine."""
    issue_command(ledger, tenant_deletion_key(tenant), by)
    finish_tenant(ledger, tenant)


def item_in_all_rounds(ledger: Ledger, keys: JobKeys, index: int, count: int) -> list[ItemRef]:
    """Return an item in each of the rounds that it is in.

    Call it after the command to delete the item: a round that is made later does not run it.
    """
    retries = [
        round_
        for round_ in range(1, read_commands(ledger, keys).retries + 1)
        if index in read_retried_items(ledger, keys, round_, count)
    ]
    return [ItemRef(round_, index) for round_ in (0, *retries)]


def finish_item(ledger: Ledger, keys: JobKeys, item: ItemRef) -> None:
    """Put a tombstone in the place of an item's result in a round, and remove all else of it.

    The reasons for which attempts have failed may name its files. Without its attempts it could be
    claimed anew, but not begun, since the command to delete it stands.
    """
    _bury(ledger, keys.result(item))
    remove_checkpoints(ledger, keys, item)
    for head in ledger.heads(f"{keys.attempts}{item}."):
        ledger.store.delete(head.key)


def finish_job(ledger: Ledger, keys: JobKeys) -> None:
    """Carry out the command to delete a job.

    Every item that was ever claimed keeps a tombstone: a suspended worker may wake up one day, and
    try to commit.
    """
    # Again if another process has redacted the spec in the meantime.
    while (found := ledger.find(keys.spec)) and not is_tombstone(found[1]):
        ledger.compare_and_swap(keys.spec, pack(Tombstone(nonce=ledger.ids.nonce())), found[0].etag)
    # The results are replaced before the attempts are deleted: if this call dies in between, the
    # attempts still say which items need a tombstone.
    claimed: set[ItemRef] = set()
    for prefix in (keys.attempts, keys.results):
        for head in ledger.heads(prefix):
            with suppress(DamagedRecordError):
                claimed.add(parse_item_ref(head.key[len(prefix) :])[0])
    ledger.gather(lambda item: _bury(ledger, keys.result(item)), sorted(claimed))
    rest = [
        head.key
        for prefix in (keys.checkpoints, keys.attempts, keys.rollup)
        for head in ledger.heads(prefix)
    ]
    ledger.gather(ledger.store.delete, rest)


def finish_tenant(ledger: Ledger, tenant: str) -> None:
    """Carry out the command to delete a tenant."""
    for job in filter(is_job_id, list(ledger.folders(jobs_folder(tenant)))):
        keys = JobKeys(tenant, job)
        issue_command(ledger, keys.deletion, "")
        finish_job(ledger, keys)
    # The command stays, so that the name is never used again, and so do the tombstones of jobs,
    # which stop suspended workers.
    jobs, command = jobs_folder(tenant), tenant_deletion_key(tenant)
    rest = [
        head.key
        for head in ledger.heads(tenant_folder(tenant))
        if head.key != command and not head.key.startswith(jobs)
    ]
    ledger.gather(ledger.store.delete, rest)


def _bury(ledger: Ledger, key: str) -> None:
    """Put a tombstone over an object, or create it, against any number of concurrent writers."""
    while True:
        tombstone = pack(Tombstone(nonce=ledger.ids.nonce()))
        if not (found := ledger.find(key)):
            if ledger.create_once(key, tombstone):
                return
            continue
        head, body = found
        if is_tombstone(body) or ledger.compare_and_swap(key, tombstone, head.etag):
            return
