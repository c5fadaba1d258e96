"""/v1/training-jobs/{job}/events: what happens to a job, as it happens (server-sent events)."""

from collections.abc import Callable

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api.callers import GUARDED, Asking
from services.api.documentation import problems
from services.api.service import Here
from services.api.streams import Listener
from services.api.training_jobs import JobId
from services.api.training_jobs import router as jobs
from services.ledger.reading import view_job

router = APIRouter(prefix=jobs.prefix, dependencies=GUARDED, tags=jobs.tags)


_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["job", "progress", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


class _Listening(StreamingResponse):
    """An answer that goes on until the job ends or the listener leaves, and is then forgotten."""

    media_type = "text/event-stream"

    def __init__(self, listener: Listener, check: Callable[[], object]) -> None:
        self._listener = listener
        super().__init__(listener.events(check))
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._listener.leave()


@router.get(
    "/{job}/events",
    summary="Listen to a job",
    status_code=200,
    response_class=StreamingResponse,
    responses=problems(404, 410)
    | {200: {"description": "Events.", "content": {"text/event-stream": {"schema": _EVENT}}}},
)
async def listen_to_training_job(
    request: Request, asking: Asking, here: Here, job: JobId
) -> StreamingResponse:
    """Events: `job` with the job whenever it has changed, first as it is now; `progress` with what
    workers say of the items that they are at, `{"INDEX": {"step", "steps", "loss", "phase"}}`; and
    `end` with the job, after which nothing comes. Where nothing happens, comments. Whoever was cut
    off comes again and hears how it stands now: `Last-Event-ID` changes nothing.
    """
    await to_thread.run_sync(view_job, here.ledger, asking.tenant, job)
    credential = request.headers["authorization"].partition(" ")[2].strip()
    listener = here.streams.enter(asking.tenant, job)
    return _Listening(listener, lambda: here.keyring.caller(credential))
