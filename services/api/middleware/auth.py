"""Authentication middleware: API key, rate limit, and limits of the body.

It guards every path under /v1, so that no route can be added without authentication.
"""

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dti_engine.errors import DTIError
from services import logs
from services.api.problems import error_response, problem_response
from services.auth.authenticator import Authenticator, Principal
from services.auth.rate_limit import RateLimiter
from services.auth.scopes import permits
from services.errors import QuotaError, ScopeError, UnknownKeyError
from services.metrics import Metrics
from services.settings import ApiSettings

GUARDED = "/v1"
_UPLOADS = "/v1/uploads/"


class AuthMiddleware:
    """Admits requests under /v1 with a valid key, within the tenant's rate and size limits."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        metrics: Metrics,
        settings: ApiSettings,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        max_bytes = self._settings.max_body_bytes
        if not _is_guarded(scope):
            await self._forward(request, max_bytes, receive, send)
            return
        try:
            principal = await self._admit(request)
        except DTIError as error:
            await error_response(request.state.request_id, error)(scope, receive, send)
            return
        scope["state"]["principal"] = principal
        if scope["method"] == "PUT" and scope["path"].startswith(_UPLOADS):
            max_bytes = principal.limits.upload_bytes
        with logs.bound(tenant=principal.tenant):
            await self._forward(request, max_bytes, receive, send)

    async def _admit(self, request: Request) -> Principal:
        """Return the principal of a request.

        Raises:
            UnknownKeyError: The key is missing or not valid.
            ScopeError: The scope of the key does not allow the request.
            QuotaError: The tenant exceeds its rate.
            UnavailableError: The store does not answer.
        """
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise UnknownKeyError("no API key was sent: send Authorization: Bearer dti_ID_SECRET")
        # In a thread, because it may read the store.
        principal = await to_thread.run_sync(self._authenticator.authenticate, credential.strip())
        wait_s = self._rate_limiter.acquire(principal.tenant, principal.limits)
        if wait_s:
            self._metrics.count("dti_rate_limited_total", limit="requests")
            raise QuotaError(
                f"more than {principal.limits.requests_per_second:g} requests per second: "
                "retry after the time in Retry-After",
                str(wait_s),
            )
        if not permits(principal.scope, request.method, request.scope["path"]):
            raise ScopeError(
                f"API key {principal.key} has the scope {principal.scope}, which does not allow "
                f"{request.method} here: ask the operator for a key with the scope all"
            )
        return principal

    async def _forward(
        self, request: Request, max_bytes: int, receive: Receive, send: Send
    ) -> None:
        """Call the app with a body of at most `max_bytes`."""
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
            if max_bytes != self._settings.max_body_bytes:
                self._metrics.count("dti_upload_rejections_total", reason="too_large")
            refused = problem_response(request.state.request_id, 413, _too_large(max_bytes))
            await refused(request.scope, receive, send)
            return
        body = _BoundedBody(receive, max_bytes, self._settings.upload_timeout_s)
        await self._app(request.scope, body.receive, send)


class _BoundedBody:
    """Receives the body of a request, up to a number of bytes and within a time."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        """timeout_s: counted from the first call, since a request may wait before it is read."""
        self._receive, self._max_bytes, self._timeout_s = receive, max_bytes, timeout_s
        self._received = 0
        self._deadline: float | None = None
        self._is_complete = False

    async def receive(self) -> Message:
        """Return the next message. Raise HTTPException if the body is too large or too late."""
        if self._is_complete:  # What follows is the news that the client has gone.
            return await self._receive()
        if self._deadline is None:
            self._deadline = anyio.current_time() + self._timeout_s
        try:
            with anyio.fail_after(self._deadline - anyio.current_time()):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, _too_late(self._timeout_s)) from error
        # A chunked body announces no length, so the bytes are counted as they arrive.
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise HTTPException(413, _too_large(self._max_bytes))
        self._is_complete = not message.get("more_body", False)
        return message


def _is_guarded(scope: Scope) -> bool:
    return scope["path"] == GUARDED or scope["path"].startswith(f"{GUARDED}/")


def _too_large(max_bytes: int) -> str:
    return f"the body has more than {max_bytes} bytes: send less, or several requests"


def _too_late(timeout_s: float) -> str:
    return f"the body took longer than {timeout_s:g} s to arrive: send it again"
