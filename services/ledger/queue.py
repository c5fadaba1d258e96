"""Hints where work may be found: a job under its pool and tenant. They may be stale or missing;
the supervisor mends both. What others put there is passed over.
"""

from services.ledger import keys as layout
from services.ledger.ids import is_job_id, is_tenant_name, reverse_time_order
from services.ledger.ledger import Ledger


def enqueue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    ledger.store.put(layout.queue_entry_key(pool, tenant, job), b"")


def dequeue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    ledger.store.delete(layout.queue_entry_key(pool, tenant, job))


def queued_tenants(ledger: Ledger, pool: str) -> list[str]:
    """Tenants with jobs in a pool."""
    return [name for name in ledger.folders(layout.pool_queue_folder(pool)) if is_tenant_name(name)]


def queued_jobs(ledger: Ledger, pool: str, tenant: str) -> list[str]:
    """A tenant's jobs in a pool, the oldest first."""
    prefix = layout.tenant_queue_folder(pool, tenant)
    names = (head.key[len(prefix) :] for head in ledger.heads(prefix))
    return [reverse_time_order(name) for name in names if is_job_id(name)]


def all_queued(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Pool, tenant and job of every hint."""
    hints: list[tuple[str, str, str]] = []
    for head in ledger.heads(layout.QUEUE_FOLDER):
        match head.key.removeprefix(layout.QUEUE_FOLDER).split("/"):
            case [pool, tenant, job] if is_tenant_name(tenant) and is_job_id(job):
                hints.append((pool, tenant, reverse_time_order(job)))
            case _:
                pass
    return hints
