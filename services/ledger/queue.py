"""The queue index: an entry for each job with work, below its pool and tenant.

The index is a cache. An entry may be stale or missing; the supervisor repairs both. Objects that
the ledger did not write are ignored.
"""

from services.ledger.ids import is_job_id, is_tenant_name, reverse_time_order
from services.ledger.keys import (
    QUEUE_FOLDER,
    pool_queue_folder,
    queue_entry_key,
    tenant_queue_folder,
)
from services.ledger.ledger import Ledger


def enqueue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    """Add a job to the queue of its pool."""
    # Without a condition: the entry is empty, so that all of its writers write the same.
    ledger.store.put(queue_entry_key(pool, tenant, job), b"")


def dequeue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    """Remove a job from the queue of its pool."""
    ledger.store.delete(queue_entry_key(pool, tenant, job))


def queued_tenants(ledger: Ledger, pool: str) -> list[str]:
    """Return the tenants with jobs in a pool."""
    return [name for name in ledger.folders(pool_queue_folder(pool)) if is_tenant_name(name)]


def queued_jobs(ledger: Ledger, pool: str, tenant: str) -> list[str]:
    """Return a tenant's jobs in a pool, the oldest first."""
    prefix = tenant_queue_folder(pool, tenant)
    names = (head.key[len(prefix) :] for head in ledger.heads(prefix))
    return [reverse_time_order(name) for name in names if is_job_id(name)]


def all_queued(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Return the pool, tenant and job of every queue entry."""
    entries: list[tuple[str, str, str]] = []
    for head in ledger.heads(QUEUE_FOLDER):
        match head.key.removeprefix(QUEUE_FOLDER).split("/"):
            case [pool, tenant, job] if is_tenant_name(tenant) and is_job_id(job):
                entries.append((pool, tenant, reverse_time_order(job)))
            case _:
                pass
    return entries
