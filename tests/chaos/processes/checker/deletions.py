"""What was deleted stays so."""

from chaos.processes.history import Evidence, Request
from services.errors import DeletedError, ServiceError
from services.ledger import queries as reading
from services.ledger.records import ResultRecord, Tombstone


def deletions_undone(evidence: Evidence) -> list[str]:
    """Deleted things of which anything is left or can be read."""
    found: list[str] = []
    for request in evidence.of("delete_job", "delete_item", "delete_token"):
        if request.done:
            found += [f"{left}: {request}" for left in _left_of(evidence, request)]
    return found


def _left_of(evidence: Evidence, request: Request) -> list[str]:
    keys = evidence.keys(request.job)
    whole = request.op == "delete_job"
    left: list[str] = []
    if request.answered and request.answered.told.get("read", "DeletedError") != "DeletedError":
        left.append("its token could be read right after")
    if whole and not isinstance(evidence.spec(request.job), Tombstone):
        left.append("its spec is there")
    for place, (record, _) in evidence.outcomes(request.job).items():
        if (whole or place.index == request.index) and isinstance(record, ResultRecord):
            left.append(f"the result of {place} is there")
    prefix = keys.folder if whole else keys.checkpoints
    for name in evidence.under(prefix):
        if whole and name.partition("/")[0] in ("attempts", "checkpoints", "rollup"):
            left.append(f"{name} is there")
        elif not whole and int(name.split(".")[1]) == request.index:
            left.append(f"checkpoint {name} is there")
    if request.op == "delete_token":
        token = request.asked["token"]
        try:
            reading.read_token(evidence.ledger, evidence.plan.tenant, token)
            left.append("its token can be read")
        except DeletedError:
            pass
        except ServiceError as error:
            left.append(f"its token is read as {error!r}")
    return left
