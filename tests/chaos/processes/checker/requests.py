"""What clients were told is true, and stays so."""

from collections import defaultdict

from chaos.processes.history import Evidence
from services.ledger.records import JobRecord

_MAY_BE_REFUSED = {
    "submit": {"DeletedError"},
    "again": {"DeletedError"},
    "other": {"ConflictError"},
    "cancel": {"DeletedError"},
    "retry": {"DeletedError", "ConflictError"},
    "delete_item": {"DeletedError"},
    "view": {"DeletedError"},
    "look": {"DeletedError"},
}


def answers_wrong(evidence: Evidence) -> list[str]:
    """Requests without an answer, or with one that cannot be."""
    found: list[str] = []
    for request in evidence.requests:
        error, op = request.error, request.op
        if request.answered is None:
            found.append(str(request))
        elif error and error not in _MAY_BE_REFUSED.get(op, set()):
            found.append(f"a wrong error: {request}")
        elif error == "DeletedError" and request.job and not evidence.deletion_asked(request.job):
            found.append(f"nobody deleted it: {request}")
        elif error == "ConflictError" and op == "retry" and not evidence.cancel_asked(request.job):
            found.append(f"nobody cancelled it: {request}")
        elif op == "view" and request.done:
            answer = request.answered.told
            if not answer["count"] == answer["total"] == len(evidence.request(request.job).items):
                found.append(f"items went missing: {request}")
    return found


def submissions_lost(evidence: Evidence) -> list[str]:
    """Jobs that a client was told of, and that are not there as they were asked for."""
    found: list[str] = []
    for job, key in evidence.jobs.items():
        record = evidence.spec(job)
        if isinstance(record, JobRecord):
            wanted = evidence.request(job)
            if (record.count, record.tags) != (len(wanted.items), wanted.tags):
                found.append(f"job {job} of {key!r} is another: {record}")
        elif record is None or not evidence.deletion_asked(job):
            found.append(f"job {job} of {key!r} is gone: {record}")
    return found


def keys_made_two(evidence: Evidence) -> list[str]:
    """Keys for which two jobs were made, or one of them twice."""
    jobs: dict[str, set[str]] = defaultdict(set)
    made: dict[str, int] = defaultdict(int)
    for request in evidence.of("submit", "again"):
        if request.answered and request.done:
            jobs[request.asked["key"]].add(request.job)
            made[request.asked["key"]] += request.answered["created"]
    return [
        f"{key!r} made jobs {sorted(jobs[key])}, and {made[key]} were told that they made it"
        for key in jobs
        if len(jobs[key]) > 1 or made[key] > 1
    ]


def conflicts_missed(evidence: Evidence) -> list[str]:
    """Other requests under a used key that were not refused."""
    return [
        str(request)
        for request in evidence.of("other")
        if request.answered and request.error != "ConflictError"
    ]
