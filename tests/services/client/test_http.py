"""Requests that are repeated, and those that are not."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import httpx
import pytest

from services.client.config import ServerConfig
from services.client.errors import (
    BrokenServerError,
    NoEventStreamError,
    OverloadedError,
    RefusedError,
    UnreachableError,
)
from services.client.http import HttpConnection
from services.client.schemas import Job

ACCESS = ServerConfig("http://dti.example/base", "dti_1_secret")
NO_ANSWER = httpx.ConnectError("refused")

Reply = httpx.Response | Exception


class Far:
    """A server that gives these replies in turn, the last one for ever, and a clock."""

    def __init__(self, *replies: Reply) -> None:
        self.replies: Sequence[Reply] = replies
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.waits: list[tuple[str, float]] = []

    def connection(self, **how: Any) -> HttpConnection:
        return HttpConnection(
            ACCESS,
            transport=httpx.MockTransport(self._reply),
            sleep=self.slept.append,
            on_wait=lambda why, seconds: self.waits.append((why, seconds)),
            **how,
        )

    def _reply(self, request: httpx.Request) -> httpx.Response:
        reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
        self.requests.append(request)
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)


def later(seconds: float | None = None, status: int = 503) -> httpx.Response:
    headers = {} if seconds is None else {"Retry-After": f"{seconds:g}"}
    return httpx.Response(status, headers=headers, json={"detail": "later"})


OK = httpx.Response(200, json={"fine": True})


def stream_of(pieces: Iterable[bytes]) -> HttpConnection:
    """Return a connection to a server that sends these pieces as its stream of events."""
    headers = {"Content-Type": "text/event-stream"}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers=headers, content=iter(pieces))
    )
    return HttpConnection(ACCESS, transport=transport)


def test_a_request_has_the_key_and_stays_below_the_servers_path() -> None:
    far = Far(OK)
    with far.connection() as connection:
        assert connection.request("GET", "v1/jobs").json() == {"fine": True}
    (request,) = far.requests
    assert str(request.url) == "http://dti.example/base/v1/jobs"
    assert request.headers["authorization"] == "Bearer dti_1_secret"
    assert request.headers["user-agent"].startswith("dti/")


def test_the_key_is_sent_to_no_other_host() -> None:
    far = Far(OK)
    with far.connection() as connection:
        for url in ("http://s3.example/a", "https://dti.example/a", "http://dti.example:81/a"):
            connection.request("POST", url)
        connection.request("PUT", "/v1/uploads/a")
        connection.request("PUT", "http://dti.example:80/v1/uploads/a")
    has_key = ["authorization" in request.headers for request in far.requests]
    assert has_key == [False, False, False, True, True]


@pytest.mark.parametrize("trouble", [later(), later(status=429), later(status=502), NO_ANSWER])
def test_transient_errors_are_retried(trouble: Reply) -> None:
    far = Far(OK, trouble, trouble, OK)
    with far.connection() as connection:
        connection.request("GET", "v1/a")
        assert connection.request("POST", "v1/b").json() == {"fine": True}
    assert len(far.requests) == 4
    assert len(far.slept) == len(far.waits) == 2
    assert all(0 < seconds <= 1 for seconds in far.slept)


def test_the_server_says_how_long_to_wait() -> None:
    far = Far(later(1.5, 429), later(0, 429), OK)
    with far.connection() as connection:
        connection.request("GET", "v1/a")
    assert far.slept == [1.5, 0]


def test_waits_grow_up_to_a_bound() -> None:
    far = Far(OK, *[NO_ANSWER] * 12, OK)
    with far.connection(retry_for_s=1e6) as connection:
        connection.request("GET", "v1/a")
        connection.request("GET", "v1/a")
    assert len(far.slept) == 12
    assert far.slept[0] <= 0.5
    assert all(5 <= seconds <= 10 for seconds in far.slept[-4:])


def test_retries_end_after_the_timeout() -> None:
    far = Far(OK, NO_ANSWER)
    with far.connection(retry_for_s=30) as connection:
        connection.request("GET", "v1/a")
        with pytest.raises(UnreachableError, match=r"http://dti.example.*refused"):
            connection.request("GET", "v1/a")
    assert 15 < sum(far.slept) <= 30


def test_a_server_that_has_never_answered_may_not_be_there_at_all() -> None:
    far = Far(NO_ANSWER)
    with far.connection(retry_for_s=30) as connection, pytest.raises(UnreachableError):
        connection.request("GET", "v1/a")
    assert sum(far.slept) <= 3


def test_a_wait_longer_than_the_timeout_fails_at_once() -> None:
    far = Far(later(3600, 429))
    with (
        far.connection(retry_for_s=30) as connection,
        pytest.raises(OverloadedError, match="try again in 3600 s"),
    ):
        connection.request("GET", "v1/a")
    assert far.slept == []


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422, 500])
def test_permanent_errors_are_not_retried(status: int) -> None:
    far = Far(later(status=status))
    with far.connection() as connection, pytest.raises(Exception, match="later") as refused:
        connection.request("GET", "v1/a")
    assert refused.value.status == status  # type: ignore[attr-defined]
    assert len(far.requests) == 1


def test_redirects_are_not_followed_with_the_key() -> None:
    far = Far(httpx.Response(307, headers={"Location": "http://elsewhere/"}))
    with far.connection() as connection, pytest.raises(BrokenServerError, match="elsewhere"):
        connection.request("GET", "v1/a")
    assert len(far.requests) == 1


@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"job": 3}'])
def test_an_answer_of_another_service_is_an_error(content: bytes) -> None:
    far = Far(httpx.Response(200, content=content))
    with far.connection() as connection, pytest.raises(BrokenServerError, match="a DTI service"):
        connection.fetch(Job, "GET", "v1/training-jobs/x")


def test_unknown_fields_of_an_answer_are_kept_for_printing() -> None:
    body = {
        "job": "j",
        "state": "hibernating",
        "count": 1,
        "counts": {"queued": 1, "hibernating": 2},
        "submitted": "2026-03-01T12:00:00Z",
        "colour": {"of": "sleep"},
    }
    far = Far(httpx.Response(200, json=body))
    with far.connection() as connection:
        job = connection.fetch(Job, "GET", "v1/training-jobs/j")
    assert not job.ended
    document = job.model_dump(mode="json")
    assert document["colour"] == {"of": "sleep"}
    assert document["counts"]["hibernating"] == 2


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        raise httpx.ReadError("gone")

    with stream_of(pieces()) as connection:
        received: list[str] = []
        with pytest.raises(UnreachableError), connection.events("v1/events") as events:
            received.extend(event.data for event in events)
        assert received == ["1"]


TEXT = (
    'event: job\ndata: {"a": 1}\n\n'
    ": still here\n\n"
    "event: progress\r\ndata: one\r\ndata:  two\r\n\r\n"
    "data: \u2028\u0085\x0b plain\rid: 7\rretry: 5\r\r"
    "event: empty\n\n"
    "event: end\ndata:x\n\n"
    "event: cut\ndata: off"
)
EVENTS = [
    ("job", '{"a": 1}'),
    ("progress", "one\n two"),
    ("message", "\u2028\u0085\x0b plain"),
    ("end", "x"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_events_are_read_from_pieces_of_any_size(size: int) -> None:
    data = TEXT.encode()
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    with stream_of(pieces) as connection, connection.events("v1/events") as events:
        assert [(event.event, event.data) for event in events] == EVENTS


@pytest.mark.parametrize("piece", [b"x", b"data: x\n"])
def test_an_event_without_an_end_is_an_error(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.client.http._MAX_EVENT", 100)
    with (
        stream_of(piece for _ in range(1000)) as connection,
        pytest.raises(BrokenServerError, match="more than 100"),
        connection.events("v1/events") as events,
    ):
        list(events)


def test_many_events_in_one_stream_are_no_large_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.client.http._MAX_EVENT", 100)
    pieces = (b"data: x\n\n" for _ in range(1000))
    with stream_of(pieces) as connection, connection.events("v1/events") as events:
        assert len(list(events)) == 1000


def test_a_response_that_is_no_stream_of_events_is_an_error() -> None:
    far = Far(OK)
    with (
        far.connection() as connection,
        pytest.raises(NoEventStreamError),
        connection.events("v1/events"),
    ):
        pass


def test_a_refused_stream_says_why() -> None:
    far = Far(later(status=422))
    with (
        far.connection() as connection,
        pytest.raises(RefusedError, match="later"),
        connection.events("v1/events"),
    ):
        pass


def test_a_closed_connection_repeats_nothing() -> None:
    connection = HttpConnection(
        ACCESS, transport=httpx.MockTransport(_closing(lambda: connection.close())), retry_for_s=1e6
    )
    with pytest.raises(OverloadedError):
        connection.request("GET", "v1/a")


def _closing(close: Callable[[], None]) -> Callable[[httpx.Request], httpx.Response]:
    def reply(_: httpx.Request) -> httpx.Response:
        close()
        return later(3600)

    return reply
