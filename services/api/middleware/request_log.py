"""What every request passes first: an id; and it is logged and counted, whatever comes of it."""

import re
import time
import uuid
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import logs
from services.api.problems import failure
from services.metrics import Metrics

HEADER = "X-Request-Id"
_THEIRS = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LEFT = 499
"""The caller was gone before there was an answer."""

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})

log = logs.logger(__name__)


class RequestLogMiddleware:
    """The outermost part of the app, but for the form of some errors."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _request_id(scope)
        scope.setdefault("state", {})["request"] = request
        status, began = 0, time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request
            await send(message)

        with logs.bound(request=request):
            try:
                await self._app(scope, receive, answer)
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"][:200])
                if status:
                    raise  # The answer has begun: all that is left is to break it off.
                await failure(request)(scope, receive, answer)
            finally:
                self._note(scope, status, time.monotonic() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", None) or "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = status or _LEFT
        self._metrics.count(
            "dti_http_requests_total", route=path, method=method, status=f"{status // 100}xx"
        )
        if not path.endswith("/events"):  # They take as long as the job does.
            self._metrics.observe("dti_http_request_seconds", seconds, route=path)
        log.info("request", method=method, route=path, status=status, seconds=round(seconds, 4))


def _request_id(scope: Scope) -> str:
    """The caller's own, if it is harmless, so that logs of both can be joined."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            return given if _THEIRS.fullmatch(given) else uuid.uuid4().hex
    return uuid.uuid4().hex
