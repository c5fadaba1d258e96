"""Hints where work may be found: a job under its pool and tenant. They may be stale or missing;
the supervisor mends both.
"""

from services.ledger import layout
from services.ledger.ids import oldest_first
from services.ledger.ledger import Ledger


def enqueue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    ledger.store.put(layout.hint(pool, tenant, job), b"")


def dequeue(ledger: Ledger, pool: str, tenant: str, job: str) -> None:
    ledger.store.delete(layout.hint(pool, tenant, job))


def queued_tenants(ledger: Ledger, pool: str) -> list[str]:
    """Tenants with jobs in a pool."""
    return list(ledger.folders(layout.pool_queue(pool)))


def queued_jobs(ledger: Ledger, pool: str, tenant: str) -> list[str]:
    """A tenant's jobs in a pool, the oldest first."""
    prefix = layout.tenant_queue(pool, tenant)
    return [oldest_first(head.key[len(prefix) :]) for head in ledger.heads(prefix)]


def all_queued(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Pool, tenant and job of every hint."""
    hints = (head.key.removeprefix(layout.QUEUE).split("/") for head in ledger.heads(layout.QUEUE))
    return [(pool, tenant, oldest_first(job)) for pool, tenant, job in hints]
