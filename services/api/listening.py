"""What happens to a job, as it happens (server-sent events)."""

from collections.abc import Callable
from typing import Any

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api.service import Service
from services.api.streams import Listener
from services.jobs import Kind
from services.ledger.reading import view_job

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


async def listen(
    request: Request, tenant: str, here: Service, job: str, kind: Kind
) -> StreamingResponse:
    """Raises: UnknownJobError of a job of another kind, DeletedError, QuotaError."""
    await to_thread.run_sync(view_job, here.ledger, tenant, job, kind)
    credential = request.headers["authorization"].partition(" ")[2].strip()
    listener = here.streams.enter(tenant, job)
    return _Listening(listener, lambda: here.keyring.caller(credential))
