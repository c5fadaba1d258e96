"""Hints and rollups can be lost: all else brings them back."""

from typing import Any

from chaos.processes.checker.counting import living_jobs
from chaos.processes.history import Evidence
from services.ledger import queries as reading
from services.ledger.keys import QUEUE_FOLDER
from services.ledger.recovery import Recovery


def rebuilt(evidence: Evidence) -> list[str]:
    """What is told otherwise after hints and rollups were deleted, and one sweep and one pass."""
    ledger = evidence.ledger
    before = _told(evidence)
    caches = [head.key for head in ledger.heads(QUEUE_FOLDER)]
    caches += [evidence.keys(job).rollup for job in living_jobs(evidence)]
    ledger.gather(ledger.store.delete, caches)
    supervisor = Recovery(ledger)
    supervisor.sweep()
    damaged = supervisor.recover().damaged
    found = [f"job {job} is damaged: {why}" for job, why in damaged.items()]
    found += [f"{head.key} is queued, though it has ended" for head in ledger.heads(QUEUE_FOLDER)]
    after = _told(evidence)
    for job in living_jobs(evidence):
        if not ledger.exists(evidence.keys(job).rollup):
            found.append(f"job {job} has no rollup again")
        if before[job] != after[job]:
            found.append(f"job {job} was {before[job]}, and is now {after[job]}")
    return found


def _told(evidence: Evidence) -> dict[str, Any]:
    ledger, tenant = evidence.ledger, evidence.plan.tenant
    return {
        job: (
            reading.view_job(ledger, tenant, job),
            reading.list_items(ledger, tenant, job, limit=1000),
        )
        for job in living_jobs(evidence)
    }
