"""Requests to the service, each repeated until it is answered or patience ends.

That is safe for all of them: what makes a job has a key by which the service knows a repetition.
"""

import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from dti_engine import __version__
from services.client.config import ServerConfig
from services.client.errors import (
    BrokenServerError,
    ClientError,
    OverloadedError,
    UnreachableError,
    problem,
    upload_problem,
)

T = TypeVar("T", bound=BaseModel)

EVENT_STREAM = "text/event-stream"
"""Media type of server-sent events."""

_PASSING = (429, 502, 503, 504)  # statuses after which the same may succeed
_TIMEOUT = httpx.Timeout(60, connect=10)
_CONNECTIONS = httpx.Limits(max_connections=32)
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 10.0  # seconds
_STREAM_SILENCE = 60.0  # seconds in which a sound server has said at least that it is there


class HttpConnection:
    """To one server, with one key. Safe to share between threads."""

    def __init__(
        self,
        access: ServerConfig,
        *,
        patience: float = 120,
        first_patience: float = 3,
        on_wait: Callable[[str, float], None] = lambda why, seconds: None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """patience: seconds in which a request may be repeated; before the server has answered for
        the first time it may be `first_patience`, since its name may be wrong. on_wait: hears why
        a request waits, and for how many seconds.
        """
        self.server = access.server
        self.on_wait = on_wait
        self._patience, self._first_patience = patience, first_patience
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self.clock, self._has_answered = clock, False
        key = {"Authorization": f"Bearer {access.key}"}
        # Proxies that lead to the world do not lead to this host.
        is_near = _is_this_host(access.server)
        self._http = _http(key, transport, trust_env=not is_near)
        # The key is told to the service alone, not to the store that it sends uploads to.
        self._elsewhere = _http({}, transport, trust_env=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Requests of other threads are not repeated any more."""
        self._closed.set()
        self._http.close()
        self._elsewhere.close()

    def ask(self, model: type[T], method: str, path: str, **how: Any) -> T:
        """What the service answers, as `model`. Raises: ClientError."""
        answer = self.request(method, path, **how)
        return self.parsed(model, answer.content)

    def parsed(self, model: type[T], body: bytes | str) -> T:
        """Raises: BrokenServerError."""
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise BrokenServerError(
                f"{self.server} answers what this program does not understand ({place}: "
                f"{first['msg']}): is it a DTI service, and of the same version?"
            ) from error

    def request(
        self, method: str, path: str, *, patience: float | None = None, **how: Any
    ) -> httpx.Response:
        """The answer to a request, if it is a good one. `path` may be a URL, of another host too.
        `patience` other than the connection's, if it is given.

        Raises: ClientError: what was refused, or why no answer came.
        """
        url = urljoin(f"{self.server}/", path)
        client = self._http if _origin(url) == _origin(self.server) else self._elsewhere
        waiting = self.waiting(patience)
        while True:
            try:
                answer = client.request(method, url, **how)
            except httpx.TransportError as error:
                trouble: ClientError = UnreachableError(_no_answer(url, error))
            else:
                if client is self._http:
                    self._has_answered = True
                if answer.is_success:
                    return answer
                if client is self._http:
                    trouble = self._trouble(answer)
                else:
                    trouble = upload_problem(
                        urlsplit(url).netloc, answer.status_code, answer.content
                    )
                    trouble.after = _retry_after(answer)
                if answer.status_code not in _PASSING:
                    raise trouble
            waiting.wait(trouble)

    @contextmanager
    def stream(self, path: str, method: str = "GET", **how: Any) -> Generator[httpx.Response]:
        """An answer of events that is still being sent, if it is a good one; asked for once.

        Raises: ClientError; UnreachableError, too, if it breaks off.
        """
        url = urljoin(f"{self.server}/", path)
        how = {"headers": {"Accept": EVENT_STREAM}, **how}
        timeout = httpx.Timeout(_STREAM_SILENCE, connect=10)
        try:
            with self._http.stream(method, url, timeout=timeout, **how) as answer:
                self._has_answered = True
                if not answer.is_success:
                    answer.read()
                    raise self._trouble(answer)
                yield answer
        except httpx.TransportError as error:
            raise UnreachableError(_no_answer(url, error)) from error

    def pause(self, attempt: int) -> float:
        """Seconds to wait before an attempt after so many, by chance not all at the same time."""
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(attempt, 10))
        return random.uniform(longest / 2, longest)

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)

    def _trouble(self, answer: httpx.Response) -> ClientError:
        if answer.is_redirect:
            return BrokenServerError(
                f"{self.server} sends us on to {answer.headers.get('location', 'nowhere')!r:.200}: "
                "give that as the server, if it is meant"
            )
        trouble = problem(answer.status_code, answer.content)
        trouble.after = _retry_after(answer)
        return trouble

    def waiting(self, patience: float | None = None) -> "Waiting":
        """For one thing that is asked for until it is answered; patience: as of `request`."""
        return Waiting(self, patience)

    def wait(
        self, trouble: ClientError, attempt: int, began: float, patience: float | None
    ) -> None:
        """Until the next attempt. Raises: the trouble, if patience would end before."""
        seconds = self.pause(attempt) if trouble.after is None else trouble.after
        if patience is None:
            patience = self._patience if self._has_answered else self._first_patience
        if self._closed.is_set():
            raise trouble
        if self.clock() - began + seconds > patience:
            if trouble.after is not None and isinstance(trouble, OverloadedError):
                trouble.args = (f"{trouble}; try again in {trouble.after:.0f} s",)
            raise trouble
        self.on_wait(str(trouble), seconds)
        self._sleep(seconds)
        if self._closed.is_set():
            raise trouble


class Waiting:
    """Counts attempts at one thing, and the seconds since the first or since something came."""

    def __init__(self, connection: HttpConnection, patience: float | None) -> None:
        self._connection, self._patience = connection, patience
        self.renew()

    def renew(self) -> None:
        """Something has come: patience begins anew."""
        self._attempt, self._began = 0, self._connection.clock()

    def wait(self, trouble: ClientError) -> None:
        """Until the next attempt. Raises: the trouble, if patience would end before."""
        self._attempt += 1
        self._connection.wait(trouble, self._attempt, self._began, self._patience)


def _http(
    headers: dict[str, str], transport: httpx.BaseTransport | None, *, trust_env: bool
) -> httpx.Client:
    return httpx.Client(
        headers={"User-Agent": f"dti/{__version__}", **headers},
        timeout=_TIMEOUT,
        limits=_CONNECTIONS,
        transport=transport,
        trust_env=trust_env,
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_this_host(server: str) -> bool:
    name = urlsplit(server).hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _no_answer(url: str, error: httpx.TransportError) -> str:
    parts = urlsplit(url)
    return (
        f"no answer from {parts.scheme}://{parts.netloc} ({str(error) or type(error).__name__}): "
        "is it running, and is that its address?"
    )


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the server asks to wait; None if it does not say."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:  # a date, which ours never says
        return None
    return seconds if 0 <= seconds < 1e6 else None
