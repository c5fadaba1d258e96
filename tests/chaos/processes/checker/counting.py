"""All jobs come to their ends, and what is told of them is what lies there."""

from chaos.processes.history import Evidence
from services.contracts.jobs import Counts, ItemState
from services.ledger import queries as reading
from services.ledger.keys import ItemRef
from services.ledger.records import JobRecord, Tombstone


def living_jobs(evidence: Evidence) -> list[str]:
    """Those that were not deleted."""
    return [job for job in evidence.jobs if isinstance(evidence.spec(job), JobRecord)]


def states(evidence: Evidence, job: str) -> list[ItemState]:
    """How items stand, from the objects alone."""
    orders, outcomes, rounds = evidence.orders(job), evidence.outcomes(job), evidence.rounds(job)

    def state(index: int) -> ItemState:
        last = max(number for number, members in enumerate(rounds) if index in members)
        record = outcomes.get(ItemRef(last, index), (None, b""))[0]
        if f"item.{index:05d}" in orders or isinstance(record, Tombstone):
            return ItemState.DELETED
        if record:
            return ItemState(record.status)
        return ItemState.CANCELLED if "cancel" in orders else ItemState.QUEUED

    return [state(index) for index in range(len(rounds[0]))]


def open_left(evidence: Evidence) -> list[str]:
    """Items that never came to an end, and checkpoints of those that did."""
    found: list[str] = []
    for line in evidence.said("overdue"):
        found.append(f"not ended {evidence.plan.limit:g} s after the last fault: {line['jobs']}")
    for job in living_jobs(evidence):
        for index, state in enumerate(states(evidence, job)):
            if not state.ended:
                found.append(f"{job} item {index} is {state}")
        left = evidence.under(evidence.keys(job).checkpoints)
        found += [f"{job}: checkpoint {name} is left" for name in left]
    return found


def views_differ(evidence: Evidence) -> list[str]:
    """Jobs of which something else is told than what lies there."""
    found: list[str] = []
    for job in living_jobs(evidence):
        seen = reading.view_job(evidence.ledger, evidence.plan.tenant, job).counts
        counted = Counts.of(states(evidence, job))
        if seen != counted:
            found.append(f"{job}: told {seen}, there are {counted}")
    return found
