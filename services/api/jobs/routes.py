"""What jobs of every kind have in common: seen, listened to, cancelled, tried again, deleted.

What happens to a job, as it happens (server-sent events).

How a job of any kind is made: once for all requests with its Idempotency-Key.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from services import logs
from services.api import audit
from services.api.dependencies import GUARDED, AppState, AppStateDep, CurrentPrincipal
from services.api.jobs import schemas as views
from services.api.jobs.events import JobSubscriber
from services.api.jobs.schemas import Said
from services.api.openapi import problems
from services.api.problems import refusal
from services.auth.authenticator import Principal
from services.contracts.jobs import ItemState, JobRequest, Kind
from services.errors import ConflictError, QuotaError, UnknownJobError
from services.ledger import deletion, submissions
from services.ledger import keys as layout
from services.ledger import queries as reading
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys
from services.ledger.queries import ItemView, view_job
from services.webhooks import subscriptions as webhooks

_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["job", "progress", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Events.", "content": {"text/event-stream": {"schema": _EVENT}}}
}
"""Of a route that answers so."""


class _Listening(StreamingResponse):
    """An answer that goes on until the job ends or the listener leaves, and is then forgotten."""

    media_type = "text/event-stream"

    def __init__(self, listener: JobSubscriber, check: Callable[[], object]) -> None:
        self._listener = listener
        super().__init__(listener.events(check))
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._listener.leave()


async def listen(
    request: Request, tenant: str, here: AppState, job: str, kind: Kind
) -> StreamingResponse:
    """Raises: UnknownJobError of a job of another kind, DeletedError, QuotaError."""
    await to_thread.run_sync(view_job, here.ledger, tenant, job, kind)
    credential = request.headers["authorization"].partition(" ")[2].strip()
    listener = here.streams.enter(tenant, job)
    return _Listening(listener, lambda: here.keyring.caller(credential))


JobId = Annotated[str, Path(description="a job's id", examples=[views.JOB])]
Index = Annotated[int, Path(ge=0, lt=100_000, description="an item's index in its job")]
Limit = Annotated[int, Query(ge=1, le=200, description="entries on a page")]

Show = Callable[[Request, AppState, str, str, ItemView, Said], views.JobEvent]
"""Makes what is answered of an item: of a tenant and a job, with what workers say of its items."""

_How: TypeAlias = dict[str, Any]
"""What a route answers, as `APIRouter.add_api_route` has it."""


class JobRoutes:
    """Those of one kind. A job of another kind is none that there is."""

    def __init__(
        self, kind: Kind, page: type[views.Page], item: type[views.JobEvent], show: Show
    ) -> None:
        """page, item: what is answered of items, and of one with its attempts."""
        self._kind: Kind = kind
        self._page, self._item, self._show = page, item, show

    def router(self) -> APIRouter:
        """All but how a job is made, which is the kind's own."""
        prefix, tag = f"/v1/{self._kind}-jobs", f"{self._kind} jobs"
        router = APIRouter(prefix=prefix, dependencies=GUARDED, tags=[tag])
        items, item = "/{job}/items", "/{job}/items/{index}"
        see: _How = {"response_model": views.Job}
        all_jobs: _How = {"response_model": views.JobPage, "responses": problems()}
        some: _How = {"response_model": self._page}
        one: _How = {"response_model": self._item}
        bury: _How = {"status_code": 204, "responses": problems(404)}
        again: _How = {"response_model": views.Retried, "responses": problems(404, 409, 410)}
        events: _How = {
            "response_class": StreamingResponse,
            "responses": problems(404, 410) | EVENTS,
        }
        for method, path, name, does, summary, how in (
            ("GET", "", "list_{}s", self.list, "List jobs, the newest first", all_jobs),
            ("GET", "/{job}", "get_{}", self.get, "See a job", see),
            ("DELETE", "/{job}", "delete_{}", self.delete, "Delete a job with all it made", bury),
            ("GET", items, "list_{}_items", self.list_items, "List a job's items", some),
            ("GET", item, "get_{}_item", self.get_item, "See an item and its attempts", one),
            ("POST", "/{job}/cancel", "cancel_{}", self.cancel, "End a job early", see),
            ("POST", "/{job}/retry", "retry_{}", self.retry, "Try failed items again", again),
            ("GET", "/{job}/events", "listen_to_{}", self.listen, "Listen to a job", events),
        ):
            answered: _How = {"responses": problems(404, 410), **how}
            name = name.format(f"{self._kind}_job")
            router.add_api_route(
                path, does, methods=[method], name=name, summary=summary, **answered
            )
        return router

    def list(
        self,
        asking: CurrentPrincipal,
        here: AppStateDep,
        cursor: Annotated[
            str | None,
            Query(pattern=f"^{views.JOB_PATTERN}$", description="`next` of the page before"),
        ] = None,
        limit: Limit = 50,
    ) -> Any:
        """Those of this kind. Deleted ones are left out."""
        page = reading.list_jobs(here.ledger, asking.tenant, cursor or "", limit, self._kind)
        jobs = [
            views.Job.of(view, here.progress.of(asking.tenant, view.job), here.models)
            for view in page.jobs
        ]
        return views.JobPage(jobs=jobs, next=page.next)

    def get(self, asking: CurrentPrincipal, here: AppStateDep, job: JobId) -> Any:
        """Its counts, and how far it is."""
        return view_of(here, asking.tenant, job, self._kind)

    def delete(self, asking: CurrentPrincipal, here: AppStateDep, job: JobId) -> None:
        """With its tokens, or images: for good, and undone by no worker that still runs. Again is
        fine.
        """
        deletion.delete_job(here.ledger, asking.tenant, job, asking.key, self._kind)
        webhooks.forget(here.ledger, asking.tenant, job)
        audit.note(here.ledger, asking, f"{self._kind}-job.delete", job)

    def list_items(
        self,
        request: Request,
        asking: CurrentPrincipal,
        here: AppStateDep,
        job: JobId,
        cursor: Annotated[
            int, Query(ge=0, lt=100_000, description="`next` of the page before, or any index")
        ] = 0,
        limit: Limit = 100,
        state: Annotated[ItemState | None, Query(description="those in this state alone")] = None,
    ) -> Any:
        """In order, each with what was made of it, or the reason why there is nothing."""
        tenant = asking.tenant
        page = reading.list_items(here.ledger, tenant, job, cursor, limit, state, self._kind)
        said = here.progress.of(tenant, job)
        items = [self._show(request, here, tenant, job, item, said) for item in page.items]
        return self._page.model_validate(
            {"items": [item.model_dump() for item in items], "next": page.next}
        )

    def get_item(
        self,
        request: Request,
        asking: CurrentPrincipal,
        here: AppStateDep,
        job: JobId,
        index: Index,
    ) -> Any:
        """Each attempt with how it ended, and why."""
        tenant = asking.tenant
        items = reading.list_items(here.ledger, tenant, job, index, 1, kind=self._kind).items
        if not items or items[0].index != index:
            raise UnknownJobError(f"job {job} has no item {index}")
        said = here.progress.of(tenant, job)
        item = self._show(request, here, tenant, job, items[0], said)
        attempts = reading.list_attempts(here.ledger, tenant, job, index)
        shown = [views.Attempt.model_validate(one).model_dump() for one in attempts]
        return self._item.model_validate(item.model_dump() | {"attempts": shown})

    def cancel(self, asking: CurrentPrincipal, here: AppStateDep, job: JobId) -> Any:
        """What has succeeded stays, what runs is stopped, and nothing more begins. Again is
        fine.
        """
        submissions.cancel(here.ledger, asking.tenant, job, asking.key, self._kind)
        return view_of(here, asking.tenant, job, self._kind)

    def retry(self, asking: CurrentPrincipal, here: AppStateDep, job: JobId) -> Any:
        """As often as at first. Of a job that was cancelled, nothing is tried again. A webhook is
        told of the end once more.
        """
        ledger, tenant = here.ledger, asking.tenant
        url = read_spec(ledger, JobKeys(tenant, job), self._kind).shared.get("webhook")
        if isinstance(url, str) and reading.view_job(ledger, tenant, job).counts.failed:
            webhooks.remember_retry(ledger, tenant, job, url)
        return views.Retried(retried=submissions.retry(ledger, tenant, job, asking.key))

    async def listen(
        self, request: Request, asking: CurrentPrincipal, here: AppStateDep, job: JobId
    ) -> StreamingResponse:
        """Events: `job` with the job whenever it has changed, first as it is now; `progress` with
        what workers say of the items that they are at, `{"INDEX": {"phase", "step", "steps",
        ...}}`; and `end` with the job, after which nothing comes. Where nothing happens, comments.
        Whoever was cut off comes again and hears how it stands now: `Last-Event-ID` changes
        nothing.
        """
        return await listen(request, asking.tenant, here, job, self._kind)


def view_of(
    here: AppState, tenant: str, job: str, kind: Kind, created: bool | None = None
) -> views.Job:
    """A job as it stands. created: by the request that is answered."""
    view = reading.view_job(here.ledger, tenant, job, kind)
    return views.Job.of(view, here.progress.of(tenant, job), here.models, created)


log = logs.logger(__name__)

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=submissions.MAX_IDEMPOTENCY_KEY,
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
    here: AppState,
    caller: Principal,
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
    here: AppState, caller: Principal, key: str, items: int, place: str, check: Callable[[], None]
) -> None:
    """Whoever asks for the job again that it has made already gets it, however much is open."""
    if items > caller.limits.open_items:
        raise refusal(
            ("body", place),
            f"{items} {place}, and this tenant may have {caller.limits.open_items} open at a time",
        )
    if not here.ledger.exists(layout.idempotency_key(caller.tenant, key)):
        check()
        try:
            here.quotas.check(caller, items)
        except QuotaError:
            here.metrics.count("dti_rate_limited_total", limit="open_items")
            raise
