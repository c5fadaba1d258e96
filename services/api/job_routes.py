"""What jobs of every kind have in common: seen, listened to, cancelled, tried again, deleted."""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from services.api import audit, views
from services.api.callers import GUARDED, Asking
from services.api.documentation import problems
from services.api.listening import EVENTS, listen
from services.api.progress import Said
from services.api.service import Here, Service
from services.errors import UnknownJobError
from services.jobs import ItemState, Kind
from services.ledger import deletion, reading, submissions
from services.ledger.layout import JobKeys
from services.ledger.specs import read_spec
from services.ledger.views import ItemView
from services.webhooks import hints as webhooks

JobId = Annotated[str, Path(description="a job's id", examples=[views.JOB])]
Index = Annotated[int, Path(ge=0, lt=100_000, description="an item's index in its job")]
Limit = Annotated[int, Query(ge=1, le=200, description="entries on a page")]

Show = Callable[[Request, Service, str, str, ItemView, Said], views.Standing]
"""Makes what is answered of an item: of a tenant and a job, with what workers say of its items."""

_How: TypeAlias = dict[str, Any]
"""What a route answers, as `APIRouter.add_api_route` has it."""


class JobRoutes:
    """Those of one kind. A job of another kind is none that there is."""

    def __init__(
        self, kind: Kind, page: type[views.Page], item: type[views.Standing], show: Show
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
        asking: Asking,
        here: Here,
        cursor: Annotated[
            str | None,
            Query(pattern=f"^{views.JOB_PATTERN}$", description="`next` of the page before"),
        ] = None,
        limit: Limit = 50,
    ) -> Any:
        """Those of this kind. Deleted ones are left out."""
        page = reading.list_jobs(here.ledger, asking.tenant, cursor or "", limit, self._kind)
        jobs = [
            views.Job.of(view, here.progress.of(asking.tenant, view.job), here.offers)
            for view in page.jobs
        ]
        return views.JobPage(jobs=jobs, next=page.next)

    def get(self, asking: Asking, here: Here, job: JobId) -> Any:
        """Its counts, and how far it is."""
        return view_of(here, asking.tenant, job, self._kind)

    def delete(self, asking: Asking, here: Here, job: JobId) -> None:
        """With its tokens, or pictures: for good, and undone by no worker that still runs. Again is
        fine.
        """
        deletion.delete_job(here.ledger, asking.tenant, job, asking.key, self._kind)
        webhooks.forget(here.ledger, asking.tenant, job)
        audit.note(here.ledger, asking, f"{self._kind}-job.delete", job)

    def list_items(
        self,
        request: Request,
        asking: Asking,
        here: Here,
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
        self, request: Request, asking: Asking, here: Here, job: JobId, index: Index
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

    def cancel(self, asking: Asking, here: Here, job: JobId) -> Any:
        """What has succeeded stays, what runs is stopped, and nothing more begins. Again is
        fine.
        """
        submissions.cancel(here.ledger, asking.tenant, job, asking.key, self._kind)
        return view_of(here, asking.tenant, job, self._kind)

    def retry(self, asking: Asking, here: Here, job: JobId) -> Any:
        """As often as at first. Of a job that was cancelled, nothing is tried again. A webhook is
        told of the end once more.
        """
        ledger, tenant = here.ledger, asking.tenant
        url = read_spec(ledger, JobKeys(tenant, job), self._kind).shared.get("webhook")
        if isinstance(url, str) and reading.view_job(ledger, tenant, job).counts.failed:
            webhooks.remember_retry(ledger, tenant, job, url)
        return views.Retried(retried=submissions.retry(ledger, tenant, job, asking.key))

    async def listen(
        self, request: Request, asking: Asking, here: Here, job: JobId
    ) -> StreamingResponse:
        """Events: `job` with the job whenever it has changed, first as it is now; `progress` with
        what workers say of the items that they are at, `{"INDEX": {"phase", "step", "steps",
        ...}}`; and `end` with the job, after which nothing comes. Where nothing happens, comments.
        Whoever was cut off comes again and hears how it stands now: `Last-Event-ID` changes
        nothing.
        """
        return await listen(request, asking.tenant, here, job, self._kind)


def view_of(
    here: Service, tenant: str, job: str, kind: Kind, created: bool | None = None
) -> views.Job:
    """A job as it stands. created: by the request that is answered."""
    view = reading.view_job(here.ledger, tenant, job, kind)
    return views.Job.of(view, here.progress.of(tenant, job), here.offers, created)
