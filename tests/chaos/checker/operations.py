"""Invariants of clients' operations: what was acknowledged is true, and stays true."""

from collections import defaultdict

from chaos.history import History, Operation
from services.errors import DeletedError, ServiceError
from services.ledger import queries
from services.ledger.records import JobRecord, ResultRecord, Tombstone

_POSSIBLE_ERRORS = {
    "submit": {"DeletedError"},
    "again": {"DeletedError"},
    "other": {"ConflictError"},
    "cancel": {"DeletedError"},
    "retry": {"DeletedError", "ConflictError"},
    "delete_item": {"DeletedError"},
    "view": {"DeletedError"},
    "list": {"DeletedError"},
}


def operation_answered_wrongly(history: History) -> list[str]:
    """Find operations without a completion, or with an impossible one."""
    found: list[str] = []
    for operation in history.all_operations:
        error, op, job = operation.error, operation.op, operation.job
        if operation.completion is None:
            found.append(str(operation))
        elif error and error not in _POSSIBLE_ERRORS.get(op, set()):
            found.append(f"a wrong error: {operation}")
        elif error == "DeletedError" and job and not history.deletion_invoked(job):
            found.append(f"no client deleted it: {operation}")
        elif error == "ConflictError" and op == "retry" and not history.cancellation_invoked(job):
            found.append(f"no client cancelled it: {operation}")
        elif op == "view" and operation.succeeded:
            fields = operation.completion.fields
            if not fields["count"] == fields["total"] == len(history.request(job).items):
                found.append(f"items are missing: {operation}")
    return found


def submission_lost(history: History) -> list[str]:
    """Find acknowledged jobs that are missing, or differ from their requests."""
    found: list[str] = []
    for job, key in history.jobs.items():
        record = history.spec(job)
        if isinstance(record, JobRecord):
            request = history.request(job)
            if (record.count, record.tags) != (len(request.items), request.tags):
                found.append(f"job {job} of {key!r} is another: {record}")
        elif record is None or not history.deletion_invoked(job):
            found.append(f"job {job} of {key!r} is gone: {record}")
    return found


def key_made_two_jobs(history: History) -> list[str]:
    """Find idempotency keys that made two jobs, or one job twice."""
    jobs: dict[str, set[str]] = defaultdict(set)
    created: dict[str, int] = defaultdict(int)
    for operation in history.operations("submit", "again"):
        if operation.completion and operation.succeeded:
            jobs[operation.invocation["key"]].add(operation.job)
            created[operation.invocation["key"]] += operation.completion["created"]
    return [
        f"{key!r} made jobs {sorted(jobs[key])}, of which {created[key]} say they are new"
        for key in jobs
        if len(jobs[key]) > 1 or created[key] > 1
    ]


def conflict_missed(history: History) -> list[str]:
    """Find other requests under a used idempotency key that were not refused."""
    return [
        str(operation)
        for operation in history.operations("other")
        if operation.completion and operation.error != "ConflictError"
    ]


def deletion_undone(history: History) -> list[str]:
    """Find what is left, or can be read, of deleted jobs, items and tokens."""
    return [
        f"{left}: {operation}"
        for operation in history.operations("delete_job", "delete_item", "delete_token")
        if operation.succeeded
        for left in _left_of(history, operation)
    ]


def _left_of(history: History, operation: Operation) -> list[str]:
    job, keys = operation.job, history.keys(operation.job)
    whole = operation.op == "delete_job"
    left: list[str] = []
    if operation.completion and operation.completion.fields.get("read") not in (
        None,
        "DeletedError",
    ):
        left.append("its token could be read right after")
    if whole and not isinstance(history.spec(job), Tombstone):
        left.append("its spec is there")
    for item_ref, (record, _) in history.results(job).items():
        if (whole or item_ref.index == operation.index) and isinstance(record, ResultRecord):
            left.append(f"the result of {item_ref} is there")
    for name in history.objects_below(keys.folder if whole else keys.checkpoints):
        if whole and name.partition("/")[0] in ("attempts", "checkpoints", "rollup"):
            left.append(f"{name} is there")
        elif not whole and int(name.split(".")[1]) == operation.index:
            left.append(f"checkpoint {name} is there")
    if operation.op == "delete_token":
        try:
            queries.read_token(history.ledger, history.config.tenant, operation.invocation["token"])
            left.append("its token can be read")
        except DeletedError:
            pass
        except ServiceError as error:
            left.append(f"reading its token raises {error!r}")
    return left
