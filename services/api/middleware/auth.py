"""Nothing under /v1 is reached without a key, at more than the tenant's rate, or by a larger body
than is allowed: it is refused here, before anything of it is read. So no route can forget it.
"""

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dti_engine.errors import DTIError
from services import logs
from services.api.problems import answer, problem
from services.auth.authenticator import Authenticator, Principal
from services.auth.rate_limit import RateLimiter
from services.errors import QuotaError, UnknownKeyError
from services.metrics import Metrics
from services.settings import ApiSettings

GUARDED = "/v1"
_UPLOADS = "/v1/uploads/"


class AuthMiddleware:
    """Inside the doorway, around the routes."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Authenticator,
        rates: RateLimiter,
        metrics: Metrics,
        settings: ApiSettings,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._rates = rates
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        limit = self._settings.max_body_bytes
        if _is_guarded(scope):
            try:
                caller = await self._admit(request)
            except DTIError as error:
                await answer(request.state.request, error)(scope, receive, send)
                return
            scope["state"]["caller"] = caller
            if scope["method"] == "PUT" and scope["path"].startswith(_UPLOADS):
                limit = caller.limits.upload_bytes
            with logs.bound(tenant=caller.tenant):
                await self._pass(request, limit, receive, send)
        else:
            await self._pass(request, limit, receive, send)

    async def _admit(self, request: Request) -> Principal:
        """Raises: UnknownKeyError, QuotaError, UnavailableError."""
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise UnknownKeyError("no key was shown: send Authorization: Bearer dti_ID_SECRET")
        caller = await to_thread.run_sync(self._keyring.caller, credential.strip())
        wait = self._rates.take(caller.tenant, caller.limits)
        if wait:
            self._metrics.count("dti_rate_limited_total", limit="requests")
            raise QuotaError(
                f"more than {caller.limits.requests_per_second:g} requests a second: "
                "wait as long as Retry-After says",
                str(wait),
            )
        return caller

    async def _pass(self, request: Request, limit: int, receive: Receive, send: Send) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            if limit != self._settings.max_body_bytes:
                self._metrics.count("dti_upload_rejections_total", reason="too_large")
            refused = problem(request.state.request, 413, _too_large(limit))
            await refused(request.scope, receive, send)
            return
        taken = 0

        async def count() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        await self._app(request.scope, count, send)


def _is_guarded(scope: Scope) -> bool:
    return scope["path"] == GUARDED or scope["path"].startswith(f"{GUARDED}/")


def _too_large(limit: int) -> str:
    return f"a body of more than {limit} bytes: send less, or in parts"
