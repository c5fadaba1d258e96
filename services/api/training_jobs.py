"""/v1/training-jobs: made, seen, cancelled, tried again, deleted."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from services import logs
from services.api import audit, views
from services.api.building import Built, build, missing_uploads, parse_order
from services.api.callers import GUARDED, Asking
from services.api.documentation import body_of, problems
from services.api.orders import JobOrder
from services.api.problems import refusal
from services.api.service import Here, Service
from services.errors import ConflictError, QuotaError, UnknownJobError
from services.jobs import ItemState
from services.ledger import deletion, layout, reading, submissions
from services.ledger.layout import JobKeys
from services.ledger.specs import read_spec
from services.ledger.views import JobView
from services.tenancy.keyring import Caller
from services.webhooks import hints as webhooks

router = APIRouter(prefix="/v1/training-jobs", dependencies=GUARDED, tags=["training jobs"])

JobId = Annotated[str, Path(description="a job's id", examples=[views.JOB])]
Index = Annotated[int, Path(ge=0, lt=100_000, description="an item's index in its job")]
Limit = Annotated[int, Query(ge=1, le=200, description="entries on a page")]

log = logs.logger(__name__)


async def _body(request: Request) -> bytes:
    return await request.body()


@router.post(
    "",
    status_code=202,
    summary="Make a job of 1 to 10,000 subjects",
    response_model=views.Job,
    response_description="It is kept, and will be found by workers; once for all with this key.",
    responses=problems(400, 410)
    | {
        200: {"model": views.DryRun, "description": "Of a dry run: nothing was made."},
        202: {
            "headers": {
                "Location": {"description": "Of the job.", "schema": {"type": "string"}},
                "Idempotency-Replayed": {
                    "description": "true: an earlier request with this key has made it.",
                    "schema": {"type": "string"},
                },
            }
        },
    },
    openapi_extra=body_of(JobOrder),
)
def create_training_job(
    asking: Asking,
    here: Here,
    body: Annotated[bytes, Depends(_body)],
    key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=submissions.MAX_KEY,
            description="one for each job: the same key and request make no second job",
            examples=["3f1b8a52-0e5d-4b0a-9d38-7c9c0f0f4f11"],
        ),
    ],
) -> Response:
    """A job has either `subjects` or the digest of a `manifest`. Uploads may still follow, but have
    to be there when a worker comes to their subject; a dry run says which are missing.
    """
    order = parse_order(body)
    built = build(here.ledger.store, asking.tenant, order, here.offers, here.settings)
    if order.dry_run:
        return JSONResponse(_dry_run(here, asking.tenant, built).model_dump(mode="json"))
    _check_quota(here, asking, key, len(built.subjects))
    try:
        made = submissions.submit(here.ledger, asking.tenant, key, built.request)
    except ConflictError as error:  # 422, as the draft of the header has it.
        raise refusal(("header", "Idempotency-Key"), str(error)) from error
    if order.webhook:
        # Before the answer: whoever gets none sends the request again.
        webhooks.remember(here.ledger.store, asking.tenant, made.job, order.webhook.url)
    if made.created:
        here.quotas.add(asking.tenant, len(built.subjects))
    with logs.bound(job=made.job):
        log.info("job submitted", items=len(built.subjects), created=made.created)
    headers = {"Location": f"{router.prefix}/{made.job}"}
    if not made.created:
        headers["Idempotency-Replayed"] = "true"
    view = _view(here, asking.tenant, made.job, made.created)
    return JSONResponse(view.model_dump(mode="json"), 202, headers)


@router.get("", summary="List jobs, the newest first", responses=problems())
def list_training_jobs(
    asking: Asking,
    here: Here,
    cursor: Annotated[
        str | None,
        Query(pattern=f"^{views.JOB_PATTERN}$", description="`next` of the page before"),
    ] = None,
    limit: Limit = 50,
) -> views.JobPage:
    """Deleted ones are left out."""
    page = reading.list_jobs(here.ledger, asking.tenant, cursor or "", limit)
    jobs = [_shown(here, asking.tenant, view) for view in page.jobs]
    return views.JobPage(jobs=jobs, next=page.next)


@router.get("/{job}", summary="See a job", responses=problems(404, 410))
def get_training_job(asking: Asking, here: Here, job: JobId) -> views.Job:
    """Its state, and how many items are in each state."""
    return _view(here, asking.tenant, job)


@router.delete(
    "/{job}",
    status_code=204,
    summary="Delete a job with all that it has made",
    responses=problems(404),
)
def delete_training_job(asking: Asking, here: Here, job: JobId) -> None:
    """Its tokens, too: for good, and undone by no worker that still runs. Again is fine."""
    deletion.delete_job(here.ledger, asking.tenant, job, asking.key)
    webhooks.forget(here.ledger, asking.tenant, job)
    audit.note(here.ledger, asking, "training-job.delete", job)


@router.get("/{job}/items", summary="List a job's items", responses=problems(404, 410))
def list_training_job_items(
    asking: Asking,
    here: Here,
    job: JobId,
    cursor: Annotated[
        int, Query(ge=0, lt=100_000, description="`next` of the page before, or any index")
    ] = 0,
    limit: Limit = 100,
    state: Annotated[ItemState | None, Query(description="those in this state alone")] = None,
) -> views.ItemPage:
    """In the order in which they were given, each with its token or the reason why it has none."""
    page = reading.list_items(here.ledger, asking.tenant, job, cursor, limit, state)
    said = here.progress.of(asking.tenant, job)
    return views.ItemPage(items=[views.Item.of(item, said) for item in page.items], next=page.next)


@router.get(
    "/{job}/items/{index}", summary="See an item and its attempts", responses=problems(404, 410)
)
def get_training_job_item(
    asking: Asking, here: Here, job: JobId, index: Index
) -> views.ItemWithAttempts:
    """Each attempt with how it ended, and why."""
    items = reading.list_items(here.ledger, asking.tenant, job, index, 1).items
    if not items or items[0].index != index:
        raise UnknownJobError(f"job {job} has no item {index}")
    item = views.Item.of(items[0], here.progress.of(asking.tenant, job))
    attempts = reading.list_attempts(here.ledger, asking.tenant, job, index)
    return views.ItemWithAttempts(
        **item.model_dump(), attempts=[views.Attempt.model_validate(one) for one in attempts]
    )


@router.post("/{job}/cancel", summary="End a job early", responses=problems(404, 410))
def cancel_training_job(asking: Asking, here: Here, job: JobId) -> views.Job:
    """What has succeeded stays, what runs is stopped, and nothing more begins. Again is fine."""
    submissions.cancel(here.ledger, asking.tenant, job, asking.key)
    return _view(here, asking.tenant, job)


@router.post(
    "/{job}/retry", summary="Try a job's failed items again", responses=problems(404, 409, 410)
)
def retry_training_job(asking: Asking, here: Here, job: JobId) -> views.Retried:
    """As often as at first. Of a job that was cancelled, nothing is tried again. A webhook is told
    of the end once more.
    """
    url = read_spec(here.ledger, JobKeys(asking.tenant, job)).shared.get("webhook")
    if isinstance(url, str) and reading.view_job(here.ledger, asking.tenant, job).counts.failed:
        webhooks.remember_retry(here.ledger, asking.tenant, job, url)
    return views.Retried(retried=submissions.retry(here.ledger, asking.tenant, job, asking.key))


def _view(here: Service, tenant: str, job: str, created: bool | None = None) -> views.Job:
    return _shown(here, tenant, reading.view_job(here.ledger, tenant, job), created)


def _shown(here: Service, tenant: str, view: JobView, created: bool | None = None) -> views.Job:
    shown = views.Job.of(view, here.progress.of(tenant, view.job), created)
    if view.state.ended or view.pool in here.offers:
        return shown
    return shown.model_copy(update={"warning": _not_offered(view.pool)})


def _not_offered(pool: str) -> str:
    return (
        f"nobody works at it: {pool} is not offered any more. Cancel it and submit it for another "
        "backbone, or have whoever runs the service offer this one again under the same name"
    )


def _dry_run(here: Service, tenant: str, built: Built) -> views.DryRun:
    missing = missing_uploads(here.ledger.store, tenant, built, here.ledger.gather)
    return views.DryRun(
        count=len(built.subjects),
        backbone=built.backbone,
        recipe=built.recipe,
        config=built.config.model_dump(mode="json"),
        steps=sum(subject.training.steps or built.config.steps for subject in built.subjects),
        missing=len(missing),
        missing_uploads=missing[:1000],
    )


def _check_quota(here: Service, caller: Caller, key: str, items: int) -> None:
    """Whoever asks for the job again that it has made already gets it, however much is open."""
    if items > caller.limits.open_items:
        raise refusal(
            ("body", "subjects"),
            f"{items} subjects, and this tenant may have {caller.limits.open_items} open at a time",
        )
    if not here.ledger.exists(layout.idempotency(caller.tenant, key)):
        try:
            here.quotas.check(caller, items)
        except QuotaError:
            here.metrics.count("dti_rate_limited_total", limit="open_items")
            raise
