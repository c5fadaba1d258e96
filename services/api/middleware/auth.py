"""Authentication middleware: API key, rate limit and body size, before any of the body is read.

It guards every path under /v1, so that no route can be added without authentication.
"""

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dti_engine.errors import DTIError
from services import logs
from services.api.problems import error_response, problem_response
from services.auth.authenticator import Authenticator, Principal
from services.auth.rate_limit import RateLimiter
from services.errors import QuotaError, UnknownKeyError
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
        received = 0

        # A chunked body announces no length, so the bytes are counted as they arrive.
        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413, _too_large(max_bytes))
            return message

        await self._app(request.scope, receive_bounded, send)


def _is_guarded(scope: Scope) -> bool:
    return scope["path"] == GUARDED or scope["path"].startswith(f"{GUARDED}/")


def _too_large(max_bytes: int) -> str:
    return f"the body has more than {max_bytes} bytes: send less, or several requests"
