"""Items fail for reasons of their own, or because they were lost again and again."""

from chaos.processes.history import Evidence
from chaos.processes.items import may_fail
from services.ledger import queries as reading
from services.ledger.keys import ItemRef
from services.ledger.records import JobRecord, ResultRecord
from services.ledger.results import count_failures


def poison_survived(evidence: Evidence) -> list[str]:
    """Poison items that did not end as failed, or whose attempts give no reason."""
    found: list[str] = []
    for job in evidence.jobs:
        spec = evidence.spec(job)
        if not isinstance(spec, JobRecord) or evidence.cancel_asked(job):
            continue
        outcomes = evidence.outcomes(job)
        for index, item in enumerate(evidence.request(job).items):
            if item.work["script"] != "poison" or evidence.deletion_asked(job, index):
                continue
            record = outcomes.get(ItemRef(0, index), (None, b""))[0]
            if not isinstance(record, ResultRecord) or record.status != "failed":
                found.append(f"{job} {ItemRef(0, index)} is poison, and ended so: {record}")
            found += _unexplained(evidence, job, index, spec.max_attempts)
    return found


def _unexplained(evidence: Evidence, job: str, index: int, least: int) -> list[str]:
    views = reading.list_attempts(evidence.ledger, evidence.plan.tenant, job, index)
    first = [view for view in views if view.round == 0]
    failures = [view for view in first if view.cause in ("lost", "failed")]
    if len(failures) < least or not all(view.reason and view.ended for view in first):
        return [f"{job} item {index} is poison, and its attempts say {first}"]
    return []


def failed_without_cause(evidence: Evidence) -> list[str]:
    """Failed items that neither fail by themselves nor were lost as often as is allowed; and those
    whose last attempt died with a worker that another item killed.
    """
    poisoned = {line["worker"] for line in evidence.said("poison")}
    found: list[str] = []
    for job, place in failed_innocents(evidence):
        ends = evidence.ends(job, place)
        claims = evidence.claims(job)
        failures = count_failures(list(ends.values()))
        wanted = evidence.request(job).max_attempts
        lost = [number for number, end in ends.items() if end.cause == "lost"]
        strange = [
            number
            for number, end in ends.items()
            if end.cause == "failed" and (evidence.script(job, place.index), number) != ("flaky", 1)
        ]
        if failures < wanted or strange:
            found.append(f"{job} {place} failed after {sorted(ends.items())}")
        elif claims.get((place, max(lost))) in poisoned:
            found.append(f"{job} {place}: its last attempt {max(lost)} died of another's poison")
    return found


def failed_innocents(evidence: Evidence) -> list[tuple[str, ItemRef]]:
    """Failed items that were not to fail."""
    return [
        (job, place)
        for job in evidence.jobs
        for place, (record, _) in evidence.outcomes(job).items()
        if isinstance(record, ResultRecord)
        and record.status == "failed"
        and not may_fail(evidence.script(job, place.index), place.round)
    ]
