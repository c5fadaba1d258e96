"""What the service promises, held against the evidence: the checks of `kills` that are about jobs
and results, and those that take the whole service.
"""

from chaos.processes.checker import Check
from chaos.processes.checker.counting import open_left, views_differ
from chaos.processes.checker.processes import processes_failed
from chaos.processes.checker.requests import answers_wrong, keys_made_two
from chaos.processes.checker.results import results_changed
from chaos.processes.history import Evidence, digest
from chaos.processes.lines import Line
from chaos.service.recovery import recovery_of
from chaos.service.tokens import TOLERANCE
from services.ledger.keys import ItemRef
from services.ledger.records import JobRecord, ResultRecord


def violations(evidence: Evidence) -> list[str]:
    """All that is broken, each with the name of its check."""
    return [f"{check.__name__}: {found}" for check in CHECKS for found in check(evidence)]


def hits_missed(evidence: Evidence) -> list[str]:
    """Hits that hit nobody: the round proves nothing."""
    hits = {line["kind"]: line["pids"] for line in evidence.said("hit")}
    wanted = evidence.said("begun")[0]["kinds"]
    return [f"no {kind} was there to be hit" for kind in wanted if not hits.get(kind)]


def not_once_succeeded(evidence: Evidence) -> list[str]:
    """Items without exactly one result, or with one that is no success."""
    found: list[str] = []
    for job in evidence.jobs:
        spec, outcomes = evidence.spec(job), evidence.outcomes(job)
        count = spec.count if isinstance(spec, JobRecord) else 0
        wanted = {ItemRef(0, index) for index in range(count)}
        if not wanted or outcomes.keys() != wanted:
            found.append(f"{job} has {count} items, and results {sorted(map(str, outcomes))}")
        for place, (record, _) in outcomes.items():
            if not isinstance(record, ResultRecord) or record.status != "succeeded":
                found.append(f"{job} {place} is {record}")
    return found


def downloads_differ(evidence: Evidence) -> list[str]:
    """Items of which clients are told or given something else than what lies in the store."""
    found: list[str] = []
    for job in evidence.jobs:
        told = {ItemRef(0, line["index"]): line for line in _told(evidence, job)}
        for place, (record, payload) in evidence.outcomes(job).items():
            if not isinstance(record, ResultRecord) or digest(payload) != record.sha256:
                found.append(f"{job} {place}: its payload is not what {record} says")
            elif place not in told or told[place]["state"] != record.status:
                found.append(f"{job} {place}: {record.status}, and told {told.get(place)}")
            elif told[place]["sha256"] != record.sha256:
                found.append(f"{job} {place}: {record.sha256}, and given {told[place]}")
    return found


def tokens_worse(evidence: Evidence) -> list[str]:
    """Tokens that no program can read, that were not learned to their end, or that are further from
    the undisturbed ones than packings may be.
    """
    steps = evidence.said("begun")[0]["steps"]
    found: list[str] = []
    for line in (line for job in evidence.jobs for line in _told(evidence, job)):
        name = f"{line['job']} item {line['index']}"
        if line["error"]:
            found.append(f"{name}: {line['error']}")
        elif line["steps"] != steps:
            found.append(f"{name} was learned for {line['steps']} of {steps} steps")
        elif not line["angle"] <= TOLERANCE * line["seeds"]:
            found.append(
                f"{name}: {line['angle']:.3g} degrees from the undisturbed token; two seeds are "
                f"{line['seeds']:.3g} apart, of which {TOLERANCE:.0%} is allowed"
            )
    return found


def recovered_late(evidence: Evidence) -> list[str]:
    """Items that nobody took up again, or later than a lease and a margin after those were there
    who had to bring it about.
    """
    margin = evidence.said("begun")[0]["margin"]
    bound = evidence.plan.lease + margin
    if not evidence.said("hit"):
        return []  # `hits_missed` says so.
    recovery = recovery_of(evidence)
    if not recovery.is_complete:
        return [f"of {recovery.in_hand} items in hand, not all were taken up again"]
    if recovery.taken is not None and recovery.taken > bound:
        return [f"it took {recovery.taken:.1f} s, and {bound:g} s are allowed: {recovery}"]
    return []


CHECKS: tuple[Check, ...] = (
    hits_missed,
    processes_failed,
    answers_wrong,
    keys_made_two,
    open_left,
    views_differ,
    results_changed,
    not_once_succeeded,
    downloads_differ,
    tokens_worse,
    recovered_late,
)


def _told(evidence: Evidence, job: str) -> list[Line]:
    return [line for line in evidence.said("told") if line["job"] == job]
