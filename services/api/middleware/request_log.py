"""Request log middleware: request id, access log, request metrics, and a response to any crash."""

import re
import time
import uuid
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import logs
from services.api.problems import internal_error_response
from services.metrics import Metrics

HEADER = "X-Request-Id"
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_CLIENT_CLOSED = 499
"""The logged status if the client closed the connection before the response began."""

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})

log = logs.logger(__name__)


class RequestLogMiddleware:
    """Logs and counts each request; only `OpenAIErrorMiddleware` is outside of it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status, started = 0, time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with logs.bound(request=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"][:200])
                if status:
                    raise  # The response has begun: only breaking the connection tells the client.
                await internal_error_response(request_id)(scope, receive, send_with_id)
            finally:
                self._record(scope, status or _CLIENT_CLOSED, time.monotonic() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        # Labels come from the route and a fixed set of methods: clients must not create series.
        path = getattr(route, "path", None) or "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        record_request(self._metrics, method, path, status, seconds)


def record_request(metrics: Metrics, method: str, route: str, status: int, seconds: float) -> None:
    """Log and count a request."""
    metrics.count(
        "dti_http_requests_total", route=route, method=method, status=f"{status // 100}xx"
    )
    if not route.endswith("/events"):  # An event stream takes as long as its job does.
        metrics.observe("dti_http_request_seconds", seconds, route=route)
    log.info("request", method=method, route=route, status=status, seconds=round(seconds, 4))


def _request_id(scope: Scope) -> str:
    """Return the client's own id if it is safe to log, so that both logs can be joined."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
            return request_id if _CLIENT_ID.fullmatch(request_id) else uuid.uuid4().hex
    return uuid.uuid4().hex
