"""Authentication middleware: API key, rate limit, shares, and limits of the body.

It guards every path under /v1, so that no route can be added without authentication.
"""

from contextlib import ExitStack

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dti_engine.errors import DTIError
from services import logs
from services.api.problems import error_response, problem_response
from services.api.shares import ApiShares, RequestThreads, network_of
from services.auth.authenticator import Authenticator, Principal
from services.auth.rate_limit import AttemptLimiter, RateLimiter
from services.auth.scopes import permits
from services.errors import QuotaError, ScopeError, UnknownKeyError
from services.metrics import Metrics
from services.settings import ApiSettings
from services.shares import Reservation

_KEY_THREADS = 16
"""Threads that read keys which are not in memory."""

GUARDED = "/v1"
_UPLOADS = "/v1/uploads/"

_LARGE_BODIES = frozenset({"/v1/training-jobs", "/v1/generation-jobs"})
_MAX_SMALL_BODY_BYTES = 2**20
"""The largest body of all other routes but uploads, ten times what any of their requests needs."""


class AuthMiddleware:
    """Admits requests under /v1 with a valid key, within the tenant's rate, shares and sizes."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        shares: ApiShares,
        metrics: Metrics,
        settings: ApiSettings,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._shares = shares
        self._attempts = AttemptLimiter(
            settings.unknown_keys_per_second, settings.unknown_keys_burst
        )
        self._key_threads = RequestThreads(_KEY_THREADS)
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        max_bytes = self._settings.max_body_bytes
        if scope["path"].rstrip("/") not in _LARGE_BODIES:
            max_bytes = min(max_bytes, _MAX_SMALL_BODY_BYTES)
        if not _is_guarded(scope):
            # No route outside of /v1 reads a body.
            await self._forward(request, max_bytes, None, receive, send)
            return
        with ExitStack() as stack:
            try:
                principal = await self._admit(request)
                stack.enter_context(self._reserve_request(principal))
            except DTIError as error:
                await error_response(request.state.request_id, error)(scope, receive, send)
                return
            scope["state"]["principal"] = principal
            with logs.bound(tenant=principal.tenant):
                if scope["method"] == "PUT" and scope["path"].startswith(_UPLOADS):
                    # The route keeps the bytes in a file, within shares of its own.
                    max_upload_bytes = principal.limits.upload_bytes
                    await self._forward(request, max_upload_bytes, None, receive, send)
                    return
                memory = stack.enter_context(Reservation(self._shares.body_bytes, principal.tenant))
                await self._forward(request, max_bytes, memory, receive, send)

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
        principal = self._authenticator.find(credential.strip())
        if principal is None:
            principal = await self._read_principal(request, credential.strip())
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

    async def _read_principal(self, request: Request, credential: str) -> Principal:
        """Return the principal of a credential that is not in memory.

        Raises:
            QuotaError: The address has sent too many unknown keys; nothing was read.
            UnknownKeyError: The key is not valid.
            UnavailableError: The store does not answer.
        """
        address = network_of(request)
        wait_s = self._attempts.wait_s(address)
        # Clients of one proxy may have one address: those that were let in before stay in.
        if wait_s and not self._authenticator.has_met(credential):
            self._metrics.count("dti_rate_limited_total", limit="unknown_keys")
            raise QuotaError(
                "too many requests with an unknown API key came from this address: send a valid "
                "key after the time in Retry-After",
                str(wait_s),
            )
        try:
            return await self._key_threads.run(
                address, self._authenticator.authenticate, credential
            )
        except UnknownKeyError:
            self._attempts.record_failure(address)
            raise

    def _reserve_request(self, principal: Principal) -> Reservation:
        try:
            return self._shares.requests.reserve(principal.tenant)
        except QuotaError:
            self._metrics.count("dti_rate_limited_total", limit="shares")
            raise

    async def _forward(
        self,
        request: Request,
        max_bytes: int,
        memory: Reservation | None,
        receive: Receive,
        send: Send,
    ) -> None:
        """Call the app with a body of at most `max_bytes`.

        memory: what the bytes are reserved in; None if the app keeps them elsewhere.
        """
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
            if memory is None and _is_guarded(request.scope):  # an upload
                self._metrics.count("dti_upload_rejections_total", reason="too_large")
            refused = problem_response(request.state.request_id, 413, _too_large(max_bytes))
            await refused(request.scope, receive, send)
            return
        if memory and announced:
            try:
                memory.extend(int(announced))
            except QuotaError as error:
                self._metrics.count("dti_rate_limited_total", limit="shares")
                await error_response(request.state.request_id, error)(request.scope, receive, send)
                return
        body = _BoundedBody(receive, max_bytes, self._settings.upload_timeout_s, memory)
        await self._app(request.scope, body.receive, send)


class _BoundedBody:
    """Receives the body of a request, up to a number of bytes and within a time."""

    def __init__(
        self, receive: Receive, max_bytes: int, timeout_s: float, memory: Reservation | None
    ) -> None:
        """Create the receiver of one request.

        Args:
            receive: Receives the next message of the body.
            max_bytes: The largest body.
            timeout_s: Counted from the first call, since a request may wait before it is read.
            memory: Holds the bytes that were announced; those of a chunked body are added to it.
        """
        self._memory = memory
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
        if self._memory and self._received > self._memory.amount:
            try:
                self._memory.extend(self._received - self._memory.amount)
            except QuotaError as error:
                # FastAPI would make a 400 of any other error.
                headers = {"Retry-After": f"{error.retry_after_s:.0f}"}
                raise HTTPException(429, str(error), headers) from error
        self._is_complete = not message.get("more_body", False)
        return message


def _is_guarded(scope: Scope) -> bool:
    return scope["path"] == GUARDED or scope["path"].startswith(f"{GUARDED}/")


def _too_large(max_bytes: int) -> str:
    return f"the body has more than {max_bytes} bytes: send less, or several requests"


def _too_late(timeout_s: float) -> str:
    return f"the body took longer than {timeout_s:g} s to arrive: send it again"
