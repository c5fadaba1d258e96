"""Requests to the service, each retried until it is answered or its time is up.

Retrying is safe for all of them: a request that makes a job has an idempotency key.
"""

import random
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Self, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import httpx
from httpx_sse import EventSource, ServerSentEvent
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception

from dti_engine import __version__
from services.client.config import ServerConfig
from services.client.errors import (
    BrokenServerError,
    ClientError,
    NoEventStreamError,
    OverloadedError,
    UnreachableError,
    problem_error,
    upload_error,
)

T = TypeVar("T", bound=BaseModel)

_EVENT_STREAM = "text/event-stream"
_TRANSIENT = (429, 502, 503, 504)  # statuses after which the same request may succeed
_TIMEOUT = httpx.Timeout(60, connect=10)
_CONNECTIONS = httpx.Limits(max_connections=32)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0
_STREAM_SILENCE_S = 60.0  # the service sends a comment at least every 15 s
_MAX_EVENT = 50_000_000  # characters; an image is far smaller


class HttpConnection:
    """Requests to one server with one API key. Thread-safe."""

    def __init__(
        self,
        server: ServerConfig,
        *,
        retry_for_s: float = 120,
        first_retry_for_s: float = 3,
        on_wait: Callable[[str, float], None] = lambda reason, pause_s: None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Open a connection.

        Args:
            server: the server's URL and the API key.
            retry_for_s: how long a request may be retried.
            first_retry_for_s: the same until the server answers for the first time; it is short,
                because the URL may be wrong.
            on_wait: called with the reason and length of each pause.
            transport: replaces the network, in tests.
            sleep: replaces the pauses, in tests.
        """
        self.server = server.server
        self.on_wait = on_wait
        self._retry_for_s, self._first_retry_for_s = retry_for_s, first_retry_for_s
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._has_answered = False
        headers = {"Authorization": f"Bearer {server.key}"}
        # A proxy that the environment names does not lead to this host.
        is_local = _is_loopback(server.server)
        self._http = _http_client(headers, transport, trust_env=not is_local)
        # The API key is for the service alone, not for the store that it sends uploads to.
        self._http_without_key = _http_client({}, transport, trust_env=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; requests of other threads are not retried any more."""
        self._closed.set()
        self._http.close()
        self._http_without_key.close()

    def fetch(self, model: type[T], method: str, path: str, **how: Any) -> T:
        """Return the response to a request, parsed as `model`. Raises: ClientError."""
        return self.parse(model, self.request(method, path, **how).content)

    def parse(self, model: type[T], body: bytes | str) -> T:
        """Parse a body. Raises: BrokenServerError if it is not what `model` describes."""
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            raise BrokenServerError(
                f"{self.server} sends a response that this program does not understand ({place}: "
                f"{first['msg']}): is it a DTI service, and of the same version?"
            ) from error

    def request(
        self, method: str, path: str, *, retry_for_s: float | None = None, **how: Any
    ) -> httpx.Response:
        """Return the successful response to a request.

        Args:
            method: of HTTP.
            path: below the server's URL, or a whole URL, also of another host.
            retry_for_s: replaces the connection's own; 0 makes one attempt.
            how: further arguments of `httpx.Client.request`.

        Raises: ClientError: the service's refusal, or the reason why there is no response.
        """
        url = urljoin(f"{self.server}/", path)
        return self.retrying(retry_for_s)(self._request_once, method, url, how)

    @contextmanager
    def events(
        self, path: str, method: str = "GET", **how: Any
    ) -> Generator[Iterator[ServerSentEvent]]:
        """Open a stream of server-sent events. It is not retried.

        Raises: NoEventStreamError if the response is something else; UnreachableError if the
            stream breaks off; BrokenServerError if an event is too large; ClientError.
        """
        url = urljoin(f"{self.server}/", path)
        how = {"headers": {"Accept": _EVENT_STREAM}, **how}
        timeout = httpx.Timeout(_STREAM_SILENCE_S, connect=10)
        try:
            with self._http.stream(method, url, timeout=timeout, **how) as response:
                self._has_answered = True
                if not response.is_success:
                    response.read()
                    raise self._response_error(response)
                if not response.headers.get("content-type", "").startswith(_EVENT_STREAM):
                    raise NoEventStreamError(f"{self.server} sends no stream of events")
                yield self._bounded_events(response)
        except httpx.TransportError as error:
            raise UnreachableError(_no_response(url, error)) from error

    def retrying(self, retry_for_s: float | None = None) -> Retrying:
        """Return tenacity's loop of attempts; ClientErrors with `is_transient` are retried."""

        def stop(state: RetryCallState) -> bool:
            limit = self._retry_for_s if self._has_answered else self._first_retry_for_s
            # Tests replace the sleep, so the time slept may exceed the time that has passed.
            passed = max(state.seconds_since_start or 0.0, state.idle_for)
            return self._closed.is_set() or passed + state.upcoming_sleep > (
                limit if retry_for_s is None else retry_for_s
            )

        return Retrying(
            retry=retry_if_exception(_is_transient),
            wait=lambda state: self.pause_s(state.attempt_number, _error_of(state)),
            stop=stop,
            sleep=self.sleep,
            before_sleep=lambda state: self.on_wait(str(_error_of(state)), state.upcoming_sleep),
            retry_error_callback=_give_up,
        )

    def pause_s(self, attempt: int, error: ClientError | None = None) -> float:
        """Return the pause after so many attempts: what the service asks for, or a random one.

        Random pauses keep clients that failed together from coming back together.
        """
        if error and error.retry_after_s is not None:
            return error.retry_after_s
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 10))
        return random.uniform(longest / 2, longest)

    def sleep(self, pause_s: float) -> None:
        """Sleep, or return early when the connection is closed."""
        self._sleep(pause_s)

    def _request_once(self, method: str, url: str, how: dict[str, Any]) -> httpx.Response:
        if self._closed.is_set():
            raise UnreachableError("the connection was closed")
        # Forms lead to the store's own server, which must never see the API key.
        is_service = _origin(url) == _origin(self.server)
        client = self._http if is_service else self._http_without_key
        try:
            response = client.request(method, url, **how)
        except httpx.TransportError as error:
            raise UnreachableError(_no_response(url, error)) from error
        # An answer of the store says nothing about the URL of the service.
        self._has_answered = self._has_answered or is_service
        if response.is_success:
            return response
        if is_service:
            raise self._response_error(response)
        error = upload_error(urlsplit(url).netloc, response.status_code, response.content)
        error.is_transient = response.status_code in _TRANSIENT
        error.retry_after_s = _retry_after_s(response)
        raise error

    def _response_error(self, response: httpx.Response) -> ClientError:
        if response.is_redirect:
            # Following a redirect would hand the API key to another server.
            location = response.headers.get("location", "nowhere")
            return BrokenServerError(
                f"{self.server} redirects to {location!r:.200}: give that as the server, if it is "
                "the right one"
            )
        error = problem_error(response.status_code, response.content)
        error.is_transient = response.status_code in _TRANSIENT
        error.retry_after_s = _retry_after_s(response)
        return error

    def _bounded_events(self, response: httpx.Response) -> Iterator[ServerSentEvent]:
        """Yield events that have data; an endless one would otherwise fill the memory."""
        bounded = _BoundedText(response, self.server)
        for event in EventSource(cast(httpx.Response, bounded)).iter_sse():
            bounded.num_characters = 0
            if event.data:
                yield event


class _BoundedText:
    """The part of a response that EventSource needs, with a bound on the size of an event."""

    def __init__(self, response: httpx.Response, server: str) -> None:
        self.headers, self._response, self._server = response.headers, response, server
        self.num_characters = 0  # since the last event

    def iter_text(self) -> Iterator[str]:
        for text in self._response.iter_text():
            self.num_characters += len(text)
            if self.num_characters > _MAX_EVENT:
                raise BrokenServerError(
                    f"{self._server} sends an event of more than {_MAX_EVENT} characters"
                )
            yield text


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ClientError) and error.is_transient


def _error_of(state: RetryCallState) -> ClientError:
    """Return the error of the last attempt; `_is_transient` lets no other pass."""
    return cast(ClientError, state.outcome and state.outcome.exception())


def _give_up(state: RetryCallState) -> None:
    """Raise the last error, with the time after which the service wants to be asked again."""
    error = _error_of(state)
    if isinstance(error, OverloadedError) and error.retry_after_s is not None:
        error.args = (f"{error}; try again in {error.retry_after_s:.0f} s",)
    raise error


def _http_client(
    headers: dict[str, str], transport: httpx.BaseTransport | None, *, trust_env: bool
) -> httpx.Client:
    return httpx.Client(
        headers={"User-Agent": f"dti/{__version__}", **headers},
        timeout=_TIMEOUT,
        limits=_CONNECTIONS,
        transport=transport,
        trust_env=trust_env,
        # Uploads of a service on this host go to this host, too.
        mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_loopback(server: str) -> bool:
    name = urlsplit(server).hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _no_response(url: str, error: httpx.TransportError) -> str:
    parts = urlsplit(url)
    return (
        f"no response from {parts.scheme}://{parts.netloc} ({str(error) or type(error).__name__}): "
        "is it running, and is that its address?"
    )


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the Retry-After header in seconds; None if it is missing or a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e6 else None
