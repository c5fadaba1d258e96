"""How a job of any kind is made: once for all requests with its Idempotency-Key."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from services import logs
from services.api.documentation import problems
from services.api.job_routes import view_of
from services.api.problems import refusal
from services.api.service import Service
from services.errors import ConflictError, QuotaError
from services.jobs import JobRequest
from services.ledger import layout, submissions
from services.tenancy.keyring import Caller
from services.webhooks import hints as webhooks

log = logs.logger(__name__)

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=submissions.MAX_KEY,
        description="one for each job: the same key and request make no second job",
        examples=["3f1b8a52-0e5d-4b0a-9d38-7c9c0f0f4f11"],
    ),
]


def answers(draft: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a route that makes jobs may answer besides. draft: of a dry run."""
    text = {"schema": {"type": "string"}}
    return problems(400, 410) | {
        200: {"model": draft, "description": "Of a dry run: nothing was made."},
        202: {
            "headers": {
                "Location": {"description": "Of the job."} | text,
                "Idempotency-Replayed": {
                    "description": "true: an earlier request with this key has made it."
                }
                | text,
            }
        },
    }


def submit(
    here: Service,
    caller: Caller,
    key: str,
    request: JobRequest,
    place: str,
    check: Callable[[], None] = lambda: None,
) -> JSONResponse:
    """Make the job, or find it. place: the field of the order that its items come of. check:
    refuses what there may no longer be when the same is asked for again.

    Raises: RequestValidationError, QuotaError, DeletedError.
    """
    _check_quota(here, caller, key, len(request.items), place, check)
    try:
        made = submissions.submit(here.ledger, caller.tenant, key, request)
    except ConflictError as error:  # 422, as the draft of the header has it.
        raise refusal(("header", "Idempotency-Key"), str(error)) from error
    url = request.shared.get("webhook")
    if isinstance(url, str):
        # Before the answer: whoever gets none sends the request again.
        webhooks.remember(here.ledger.store, caller.tenant, made.job, url)
    if made.created:
        here.quotas.add(caller.tenant, len(request.items))
    with logs.bound(job=made.job):
        log.info("job submitted", kind=request.kind, items=len(request.items), created=made.created)
    headers = {"Location": f"/v1/{request.kind}-jobs/{made.job}"}
    if not made.created:
        headers["Idempotency-Replayed"] = "true"
    view = view_of(here, caller.tenant, made.job, request.kind, made.created)
    return JSONResponse(view.model_dump(mode="json"), 202, headers)


def _check_quota(
    here: Service, caller: Caller, key: str, items: int, place: str, check: Callable[[], None]
) -> None:
    """Whoever asks for the job again that it has made already gets it, however much is open."""
    if items > caller.limits.open_items:
        raise refusal(
            ("body", place),
            f"{items} {place}, and this tenant may have {caller.limits.open_items} open at a time",
        )
    if not here.ledger.exists(layout.idempotency(caller.tenant, key)):
        check()
        try:
            here.quotas.check(caller, items)
        except QuotaError:
            here.metrics.count("dti_rate_limited_total", limit="open_items")
            raise
