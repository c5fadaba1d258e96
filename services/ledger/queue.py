"""Hints where work may be found: a job under its pool and tenant. They may be stale or missing;
the supervisor mends both. What others put there is passed over.
"""

from services.ledger import keys as layout
from services.ledger.ids import is_job, is_tenant, oldest_first
from services.ledger.ledger import Ledger


def enqueue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    ledger.store.put(layout.hint(pool, tenant, job), b"")


def dequeue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    ledger.store.delete(layout.hint(pool, tenant, job))


def queued_tenants(ledger: Ledger, pool: str) -> list[str]:
    """Tenants with jobs in a pool."""
    return [name for name in ledger.folders(layout.pool_queue(pool)) if is_tenant(name)]


def queued_jobs(ledger: Ledger, pool: str, tenant: str) -> list[str]:
    """A tenant's jobs in a pool, the oldest first."""
    prefix = layout.tenant_queue(pool, tenant)
    names = (head.key[len(prefix) :] for head in ledger.heads(prefix))
    return [oldest_first(name) for name in names if is_job(name)]


def all_queued(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Pool, tenant and job of every hint."""
    hints: list[tuple[str, str, str]] = []
    for head in ledger.heads(layout.QUEUE):
        match head.key.removeprefix(layout.QUEUE).split("/"):
            case [pool, tenant, job] if is_tenant(tenant) and is_job(job):
                hints.append((pool, tenant, oldest_first(job)))
            case _:
                pass
    return hints
