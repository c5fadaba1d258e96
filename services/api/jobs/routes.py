"""Routes that both kinds of jobs share, and the submission of a job.

List, get, cancel, retry and delete jobs; list items; stream events. A submission is idempotent: all
requests with one Idempotency-Key make one job.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, TypeAlias

from anyio import move_on_after
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from services import logs
from services.api import audit
from services.api.dependencies import GUARDED, AppState, AppStateDep, CurrentPrincipal
from services.api.jobs import schemas
from services.api.jobs.events import JobSubscription
from services.api.openapi import problems
from services.api.problems import invalid_request
from services.api.shares import FairRoute
from services.auth.authenticator import Principal
from services.contracts.jobs import ItemState, JobRequest, Kind
from services.errors import ConflictError, QuotaError, UnknownJobError
from services.ledger import deletion, queries, submissions
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys, idempotency_key
from services.ledger.workers import ItemProgress
from services.webhooks import subscriptions

JobId = Annotated[str, Path(description="The id of a job.", examples=[schemas.JOB])]
Index = Annotated[int, Path(ge=0, lt=100_000, description="The index of an item in its job.")]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=submissions.MAX_IDEMPOTENCY_KEY,
        description="A key of your choice for the job: a repeated request with the same key "
        "returns the same job.",
        examples=["3f1b8a52-0e5d-4b0a-9d38-7c9c0f0f4f11"],
    ),
]

BuildItem = Callable[
    [Request, AppState, str, str, queries.ItemView, ItemProgress], schemas.BaseItem
]
"""Builds the resource of an item from the request, the state, the tenant, the job's id, the item
and the progress of the job's items."""

_RouteOptions: TypeAlias = dict[str, Any]
"""Keyword arguments of `APIRouter.add_api_route`."""

_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"enum": ["job", "progress", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_EVENT_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The event stream.",
        "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}},
    }
}

_STREAM_GRACE_S = 10.0
"""Time beyond that of a stream, in which its last events are sent."""

log = logs.logger(__name__)


class _JobEventResponse(StreamingResponse):
    """An event stream that closes its subscription when it ends or the client disconnects."""

    media_type = "text/event-stream"

    def __init__(
        self, subscription: JobSubscription, check_key: Callable[[], object], max_stream_s: float
    ) -> None:
        self._subscription, self._max_stream_s = subscription, max_stream_s
        super().__init__(subscription.events(check_key))
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # The stream ends by itself, but not while a client that does not read makes it wait.
            with move_on_after(self._max_stream_s + _STREAM_GRACE_S):
                await super().__call__(scope, receive, send)
        finally:
            self._subscription.close()


class JobRoutes:
    """The routes of one kind of job. A job of the other kind does not exist for them."""

    def __init__(
        self,
        kind: Kind,
        item_page: type[schemas.PageResource],
        item_with_attempts: type[schemas.BaseItem],
        build_item: BuildItem,
    ) -> None:
        self._kind: Kind = kind
        self._item_page = item_page
        self._item_with_attempts = item_with_attempts
        self._build_item = build_item

    def router(self) -> APIRouter:
        """Return a router with all routes but the submission, which differs between the kinds."""
        prefix, tag = f"/v1/{self._kind}-jobs", f"{self._kind} jobs"
        router = APIRouter(prefix=prefix, dependencies=GUARDED, tags=[tag], route_class=FairRoute)
        job: _RouteOptions = {"response_model": schemas.Job}
        jobs: _RouteOptions = {"response_model": schemas.JobPage, "responses": problems()}
        deleted: _RouteOptions = {"status_code": 204, "responses": problems(404)}
        retried: _RouteOptions = {
            "response_model": schemas.RetryResponse,
            "responses": problems(404, 409, 410),
        }
        events: _RouteOptions = {
            "response_class": StreamingResponse,
            "responses": problems(404, 410) | _EVENT_RESPONSE,
        }
        default: _RouteOptions = {"responses": problems(404, 410)}
        items: _RouteOptions = {"response_model": self._item_page}
        item: _RouteOptions = {"response_model": self._item_with_attempts}
        for method, path, name, endpoint, summary, options in (
            ("GET", "", "list_{}s", self.list, "List jobs, newest first", jobs),
            ("GET", "/{job}", "get_{}", self.get, "Get a job", job),
            ("DELETE", "/{job}", "delete_{}", self.delete, "Delete a job and its results", deleted),
            ("GET", "/{job}/items", "list_{}_items", self.list_items, "List items", items),
            ("GET", "/{job}/items/{index}", "get_{}_item", self.get_item, "Get an item", item),
            ("POST", "/{job}/cancel", "cancel_{}", self.cancel, "Cancel a job", job),
            ("POST", "/{job}/retry", "retry_{}", self.retry, "Retry failed items", retried),
            ("GET", "/{job}/events", "stream_{}_events", self.stream, "Stream events", events),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=[method],
                name=name.format(f"{self._kind}_job"),
                summary=summary,
                **(default | options),
            )
        return router

    def list(
        self,
        principal: CurrentPrincipal,
        state: AppStateDep,
        cursor: schemas.IdCursor = None,
        limit: schemas.PageLimit = 50,
    ) -> Any:
        """List the jobs of this kind; deleted ones are left out."""
        tenant = principal.tenant
        page = queries.list_jobs(state.ledger, tenant, cursor or "", limit, self._kind)
        jobs = [
            schemas.Job.of(view, state.progress.read(tenant, view.job), state.models)
            for view in page.jobs
        ]
        return schemas.JobPage(jobs=jobs, next=page.next)

    def get(self, principal: CurrentPrincipal, state: AppStateDep, job: JobId) -> Any:
        """Return the state, the counts of items and the progress of the job."""
        return read_job(state, principal.tenant, job, self._kind)

    def delete(self, principal: CurrentPrincipal, state: AppStateDep, job: JobId) -> None:
        """Delete the job with its tokens or images.

        Deletion is final and idempotent, and no running worker can bring anything back.
        """
        deletion.delete_job(state.ledger, principal.tenant, job, principal.key, self._kind)
        subscriptions.unsubscribe(state.ledger, principal.tenant, job)
        audit.record_deletion(state.ledger, principal, f"{self._kind}-job.delete", job)

    def list_items(
        self,
        request: Request,
        principal: CurrentPrincipal,
        state: AppStateDep,
        job: JobId,
        cursor: Annotated[
            int, Query(ge=0, lt=100_000, description="`next` of the previous page, or any index.")
        ] = 0,
        limit: schemas.PageLimit = 100,
        item_state: Annotated[
            ItemState | None, Query(alias="state", description="Only list items in this state.")
        ] = None,
    ) -> Any:
        """List the items by index, each with its result or the reason of its failure."""
        tenant = principal.tenant
        page = queries.list_items(state.ledger, tenant, job, cursor, limit, item_state, self._kind)
        progress = state.progress.read(tenant, job)
        items = [
            self._build_item(request, state, tenant, job, view, progress) for view in page.items
        ]
        return self._item_page.model_validate(
            {"items": [item.model_dump() for item in items], "next": page.next}
        )

    def get_item(
        self,
        request: Request,
        principal: CurrentPrincipal,
        state: AppStateDep,
        job: JobId,
        index: Index,
    ) -> Any:
        """Return the item with all attempts at it, and how and why each of them ended."""
        tenant = principal.tenant
        views = queries.list_items(state.ledger, tenant, job, index, 1, kind=self._kind).items
        # A list that begins behind the last item is empty; a job of another kind raises before.
        if not views or views[0].index != index:
            raise UnknownJobError(f"job {job} has no item {index}")
        progress = state.progress.read(tenant, job)
        item = self._build_item(request, state, tenant, job, views[0], progress)
        attempts = [
            schemas.AttemptResource.model_validate(attempt).model_dump()
            for attempt in queries.list_attempts(state.ledger, tenant, job, index)
        ]
        return self._item_with_attempts.model_validate(item.model_dump() | {"attempts": attempts})

    def cancel(self, principal: CurrentPrincipal, state: AppStateDep, job: JobId) -> Any:
        """Stop the running items and start no others; existing results remain.

        Cancelling is idempotent.
        """
        submissions.cancel(state.ledger, principal.tenant, job, principal.key, self._kind)
        return read_job(state, principal.tenant, job, self._kind)

    def retry(self, principal: CurrentPrincipal, state: AppStateDep, job: JobId) -> Any:
        """Give each failed item `max_attempts` new attempts.

        A cancelled job cannot be retried. The webhook gets another message when the job ends again.
        """
        ledger, tenant = state.ledger, principal.tenant
        url = read_spec(ledger, JobKeys(tenant, job), self._kind).shared.get("webhook")
        # Before the retry: a crash in between must not lose the message.
        if isinstance(url, str) and queries.view_job(ledger, tenant, job).counts.failed:
            subscriptions.subscribe_retry(ledger, tenant, job, url)
        retried = submissions.retry(ledger, tenant, job, principal.key)
        return schemas.RetryResponse(retried=retried)

    async def stream(
        self, request: Request, principal: CurrentPrincipal, state: AppStateDep, job: JobId
    ) -> StreamingResponse:
        """Stream the events `job`, `progress` and `end`.

        `job` is sent first and whenever the job has changed; `progress` has what workers report
        about running items, `{"INDEX": {"phase", "step", "steps", ...}}`; `end` is the last event.
        Comments keep an idle connection open. After a disconnection, connect again: the stream
        starts with the current state, whatever `Last-Event-ID` says.
        """
        await state.shares.threads.run(
            principal.tenant, queries.view_job, state.ledger, principal.tenant, job, self._kind
        )
        credential = request.headers["authorization"].partition(" ")[2].strip()
        subscription = state.events.subscribe(principal.tenant, job)
        return _JobEventResponse(
            subscription,
            lambda: state.authenticator.authenticate(credential),
            state.settings.max_stream_s,
        )


def read_job(
    state: AppState, tenant: str, job: str, kind: Kind, created: bool | None = None
) -> schemas.Job:
    """Return the resource of a job; `created` is set in the response to its submission."""
    view = queries.view_job(state.ledger, tenant, job, kind)
    return schemas.Job.of(view, state.progress.read(tenant, job), state.models, created)


def submission_responses(dry_run: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the responses of a route that creates jobs; `dry_run` is that of a dry run."""
    text = {"schema": {"type": "string"}}
    return problems(400, 408, 410) | {
        200: {"model": dry_run, "description": "The result of a dry run: no job was created."},
        202: {
            "headers": {
                "Location": {"description": "The path of the job."} | text,
                "Idempotency-Replayed": {
                    "description": "`true` if an earlier request with this key created the job."
                }
                | text,
            }
        },
    }


def submit_job(
    state: AppState,
    principal: Principal,
    key: str,
    request: JobRequest,
    field: str,
    check_references: Callable[[], None] = lambda: None,
    warnings: Sequence[str] = (),
) -> JSONResponse:
    """Create a job, or find the one that an earlier request with this key created.

    Args:
        state: The state of the process.
        principal: The caller.
        key: The Idempotency-Key.
        request: The job.
        field: The field of the body that its items come from, for errors.
        check_references: Raises if the request refers to something that does not exist. It runs
            for new jobs only: a replay must succeed after the referenced things were deleted.
        warnings: What of the request has no effect, for the response.

    Raises:
        RequestValidationError: The key was used for another request, or a check failed.
        QuotaError: The tenant has too many open items.
        DeletedError: The job or the tenant was deleted.
    """
    with _reserve_items(
        state, principal, key, len(request.items), field, check_references
    ) as submitted:
        try:
            submission = submissions.submit(state.ledger, principal.tenant, key, request)
        except ConflictError as error:  # The draft of the Idempotency-Key header requires 422.
            raise invalid_request(("header", "Idempotency-Key"), str(error)) from error
        if submission.created:
            submitted()
    url = request.shared.get("webhook")
    if isinstance(url, str):
        # Before the response: a client that gets none sends the request again, and this again.
        subscriptions.subscribe(state.ledger.store, principal.tenant, submission.job, url)
    with logs.bound(job=submission.job):
        log.info(
            "job submitted",
            kind=request.kind,
            items=len(request.items),
            created=submission.created,
        )
    headers = {"Location": f"/v1/{request.kind}-jobs/{submission.job}"}
    if not submission.created:
        headers["Idempotency-Replayed"] = "true"
    job = read_job(state, principal.tenant, submission.job, request.kind, submission.created)
    body = job.model_copy(update={"warnings": list(warnings)}).model_dump(mode="json")
    return JSONResponse(body, 202, headers)


@contextmanager
def _reserve_items(
    state: AppState,
    principal: Principal,
    key: str,
    num_items: int,
    field: str,
    check_references: Callable[[], None],
) -> Generator[Callable[[], None]]:
    """Reserve the items of a new job. A replay adds no items, so it always passes.

    Yields:
        A function to call when the job was created.
    """
    # No waiting helps such a job, so that this is an error of the request and no 429.
    if num_items > principal.limits.open_items:
        raise invalid_request(
            ("body", field),
            f"the job has {num_items} {field}, and the tenant's limit of open items is "
            f"{principal.limits.open_items}",
        )
    if state.ledger.exists(idempotency_key(principal.tenant, key)):
        yield lambda: None
        return
    check_references()
    with ExitStack() as stack:
        try:
            submitted = stack.enter_context(state.quotas.reserve(principal, num_items))
        except QuotaError:
            state.metrics.count("dti_rate_limited_total", limit="open_items")
            raise
        yield submitted
