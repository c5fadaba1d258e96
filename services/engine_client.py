"""HTTP client of the engines: sends a `GenerateRequest` and streams its events back."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
from anyio import to_thread
from pydantic import ValidationError

import dti_engine.errors
import services.errors
from dti_engine.errors import DTIError
from services import logs
from services.contracts.generation import (
    EVENT,
    Event,
    FailureEvent,
    GenerateRequest,
    ImageEvent,
    Rejection,
    split_secrets,
)
from services.errors import (
    DeadlineExceededError,
    NoEngineError,
    QueueFullError,
    QuotaError,
    ServiceError,
    UnknownKeyError,
)
from services.shares import FairSemaphore, Reservation, Shares

_MAX_CONNECTIONS = 512
"""One connection per request in progress."""

_GRACE_S = 5.0
"""Time beyond the request's own timeout, in which an engine itself reports that it was late."""

_PROXY_STATUSES = frozenset({404, 502, 503})
"""Statuses with which a proxy says that the model has no engine, or no free one. An engine's own
error always carries a `Rejection`.
"""

_RECEIVE_BUFFER_BYTES = 2**14
"""The event loop reads all that the system has received, also for a stream that waits."""

_LARGE_LINE_BYTES = 2**16
"""Longer lines hold an image and are parsed in a thread, so that the event loop goes on."""

_RETRY_AFTER_S = "5"

_ERRORS = {
    name: kind
    for module in (dti_engine.errors, services.errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, DTIError)
}

log = logs.logger(__name__)


class EngineClient:
    """Client of all engines of a service. All methods must be called in one event loop."""

    def __init__(
        self,
        url: str | None,
        secret: str,
        connect_timeout_s: float,
        *,
        shares: Shares | None = None,
        deliveries: FairSemaphore | None = None,
    ) -> None:
        """Create a client.

        Args:
            url: Base URL, to which the name of a model is appended; None if no engines run.
            secret: The secrets that the engines accept, separated by commas; the first is sent.
            connect_timeout_s: How long an engine that does not accept a connection may take.
            shares: Divides the requests in progress between tenants; None: it is left to the
                caller.
            deliveries: Bounds the images that are in memory at a time: a stream reads a large
                event once its tenant has a place. None: no bound.
        """
        self._deliveries = deliveries
        self._shares = shares or Shares("requests for images", 2 * _MAX_CONNECTIONS)
        self._url = url.rstrip("/") if url else None
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {split_secrets(secret)[0]}"},
            # No read timeout: the request's own deadline bounds the whole exchange.
            timeout=httpx.Timeout(connect_timeout_s, read=None),
            transport=httpx.AsyncHTTPTransport(
                # Connections are not reused: the other side may just have closed an idle one, and
                # the request that then fails could not be sent again.
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=0),
                socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)],
            ),
            # Engines are inside of the cluster, where a proxy of the environment does not lead.
            trust_env=False,
        )

    async def generate(
        self, model: str, request: GenerateRequest, request_id: str
    ) -> "GenerationStream":
        """Send a request, which must have a timeout. The caller closes the returned stream.

        Raises:
            NoEngineError: No engine of the model can be reached.
            QueueFullError: The engine, or this client, has too many requests.
            QuotaError: The tenant has its share of the requests in progress.
            DeadlineExceededError: The request's timeout has passed.
            DTIError: Any other error with which an engine rejects the request.
        """
        if self._url is None:
            raise NoEngineError(f"no endpoint is running that generates with {model}", "60")
        assert request.timeout_s
        deadline = asyncio.get_running_loop().time() + request.timeout_s + _GRACE_S
        http_request = self._http.build_request(
            "POST",
            f"{self._url}/{model}/generate",
            # Fields at their defaults are left out: an engine of an older version, as there is
            # during a rolling update, rejects fields that it does not know.
            content=request.model_dump_json(exclude_defaults=True),
            headers={"Content-Type": "application/json", "X-Request-Id": request_id},
        )
        # The stream gives the place back when it is closed.
        with ExitStack() as stack:
            place = stack.enter_context(self._shares.reserve(request.tenant))
            try:
                async with asyncio.timeout_at(deadline):
                    response = await self._http.send(http_request, stream=True)
                    stream = GenerationStream(
                        response,
                        len(request.images),
                        deadline,
                        place,
                        _Deliveries(self._deliveries, request.tenant),
                    )
                    if response.status_code != 200:
                        try:
                            raise _rejected(model, response.status_code, await response.aread())
                        finally:
                            await stream.close()
            except TimeoutError as error:
                raise _deadline_exceeded() from error
            except httpx.PoolTimeout as error:
                raise QueueFullError(
                    "too many requests for images are in progress: ask again", _RETRY_AFTER_S
                ) from error
            except httpx.TransportError as error:
                log.warning("engine does not answer", model=model, error=repr(error))
                raise _absent(model) from error
            stack.pop_all()
        return stream

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


@dataclass
class _Deliveries:
    """The places that one request holds for images that are in memory."""

    _places: FairSemaphore | None
    _tenant: str
    _held: int = 0

    async def acquire(self, amount: int) -> None:
        """Wait for places, unless the request has some."""
        if self._places and not self._held:
            self._held = await self._places.acquire(self._tenant, amount)

    def release(self) -> None:
        """Give back all places."""
        held, self._held = self._held, 0
        if self._places and held:
            self._places.release(self._tenant, held)


@dataclass
class GenerationStream:
    """The events of one accepted request. Closing the stream cancels unfinished images."""

    _response: httpx.Response
    _count: int
    deadline: float
    """Time on the event loop's clock."""
    _place: Reservation
    _deliveries: _Deliveries

    async def events(self, *, kept: bool = False) -> AsyncGenerator[Event]:
        """Yield events until every image has ended.

        Args:
            kept: Whether the caller keeps the images until it closes the stream. Otherwise, it has
                delivered an event when it asks for the next.

        Raises:
            DeadlineExceededError: The deadline has passed.
            NoEngineError: The engine broke off.
        """
        unfinished = set(range(self._count))
        # All at once: requests that each wait for places of their later images would wait for
        # each other.
        amount = self._count if kept else 1
        lines = _lines(self._response.aiter_bytes(), lambda: self._deliveries.acquire(amount))
        while unfinished:
            try:
                async with asyncio.timeout_at(self.deadline):
                    line = await anext(lines, None)
            except TimeoutError as error:
                raise _deadline_exceeded() from error
            except httpx.TransportError as error:
                log.warning("engine broke off", error=repr(error))
                raise _broken() from error
            if line is None:
                log.warning("engine ended its response early", missing=len(unfinished))
                raise _broken()
            event = await _parse(line)
            if isinstance(event, ImageEvent | FailureEvent):
                unfinished.discard(event.image)
            yield event
            if not kept:
                self._deliveries.release()

    async def close(self) -> None:
        """Close the response, which makes the engine drop unfinished images."""
        try:
            await self._response.aclose()
        finally:
            self._deliveries.release()
            self._place.release()


def rebuild_error(name: str, detail: str, retry_after_s: float | None = None) -> DTIError:
    """Return the exception that an engine reported by the name of its class.

    An unknown name becomes a ServiceError, whose text reaches the log but not the tenant. So does
    UnknownKeyError, which is about the secret between this process and the engine.
    """
    # Engines of a newer version may know errors that this process does not.
    kind = _ERRORS.get(name)
    if kind is None or issubclass(kind, UnknownKeyError):
        return ServiceError(f"an engine reported {name}: {detail}")
    if retry_after_s is not None and issubclass(kind, NoEngineError | QuotaError):
        return kind(detail, str(retry_after_s))
    return kind(detail)


def _rejected(model: str, status: int, body: bytes) -> DTIError:
    try:
        rejection = Rejection.model_validate_json(body)
    except ValidationError:
        if status in _PROXY_STATUSES:
            return _absent(model)
        return ServiceError(f"an engine answered {status}: {body[:500]!r}")
    return rebuild_error(rejection.error, rejection.detail, rejection.retry_after_s)


async def _lines(
    chunks: AsyncIterator[bytes], before_large: Callable[[], Awaitable[None]]
) -> AsyncGenerator[bytes]:
    """Yield the lines of a response, without a last line that no newline ends.

    The rest of a large line is read once `before_large` has returned.

    `httpx.Response.aiter_lines` would also split at other characters, such as U+2028, that JSON
    allows inside strings. A line without a newline was cut off.
    """
    pending: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            yield b"".join((*pending, line))
            pending.clear()
            size = 0
        pending.append(rest)
        size += len(rest)
        if size > _LARGE_LINE_BYTES:
            await before_large()


async def _parse(line: bytes) -> Event:
    try:
        if len(line) > _LARGE_LINE_BYTES:
            return await to_thread.run_sync(EVENT.validate_json, line)
        return EVENT.validate_json(line)
    except ValidationError as error:
        raise ServiceError(f"an engine sent an invalid event: {line[:200]!r}") from error


def _absent(model: str) -> NoEngineError:
    return NoEngineError(f"no engine of {model} answers now: ask again", _RETRY_AFTER_S)


def _broken() -> NoEngineError:
    return NoEngineError("the engine broke off: ask again", _RETRY_AFTER_S)


def _deadline_exceeded() -> DeadlineExceededError:
    return DeadlineExceededError(
        "the images were not done in time: give more seconds, or ask for fewer images or steps"
    )
