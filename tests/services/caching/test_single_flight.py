"""Concurrent calls of a key share one execution, its errors and its cancellation."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from services.caching.single_flight import SingleFlight, wait
from services.errors import UnknownJobError


@pytest.fixture
def flights() -> Iterator[SingleFlight[str, int]]:
    flights: SingleFlight[str, int] = SingleFlight(2)
    yield flights
    flights.close()


def test_a_result_is_not_kept_for_later_calls(flights: Any) -> None:
    answers = iter(range(10))
    assert [flights.run("a", lambda: next(answers)) for _ in range(3)] == [0, 1, 2]


def test_calls_of_different_keys_are_independent(flights: Any) -> None:
    assert flights.run("a", lambda: flights.run("b", lambda: 7)) == 7


def test_a_call_joins_a_submitted_one(flights: Any) -> None:
    go = threading.Event()
    sent = flights.submit("a", lambda: go.wait(20) and 1)
    with pytest.raises(TimeoutError):
        wait(sent, 0.01)
    assert flights.submit("a", lambda: 2) is sent
    threading.Timer(0.05, go.set).start()
    assert flights.run("a", lambda: 3) == 1


def test_each_waiting_thread_raises_its_own_copy_of_the_error(flights: Any, at_once: Any) -> None:
    def fail() -> int:
        threading.Event().wait(0.1)
        raise UnknownJobError("none")

    got = at_once(10, lambda: flights.run("a", fail))
    assert {str(error) for error in got} == {"none"}
    assert len({id(error) for error in got}) == 10
    assert flights.run("a", lambda: 5) == 5


def test_another_thread_takes_over_when_the_running_one_is_interrupted(flights: Any) -> None:
    begun, go = threading.Event(), threading.Event()
    stopped = list[BaseException]()

    def be_stopped() -> int:
        begun.set()
        assert go.wait(20)
        raise KeyboardInterrupt

    def first() -> None:
        try:
            flights.run("a", be_stopped)
        except KeyboardInterrupt as error:
            stopped.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    threading.Timer(0.05, go.set).start()
    assert flights.run("a", lambda: 4) == 4
    thread.join(20)
    assert stopped


def test_close_cancels_the_calls_that_have_not_begun(flights: Any) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> int:
        begun.release()
        assert go.wait(20)
        return 1

    held = [flights.submit(key, hold) for key in "ab"]
    assert begun.acquire(timeout=20)
    assert begun.acquire(timeout=20)
    waiting = flights.submit("c", lambda: 1)
    flights.close()
    go.set()
    assert [wait(each, 20) for each in held] == [1, 1]
    for flight in (waiting, flights.submit("d", lambda: 1)):
        with pytest.raises(CancelledError):
            wait(flight, 20)
    assert flights.run("d", lambda: 6) == 6


def test_an_unexpected_error_of_a_background_call_is_logged(
    flights: Any, caplog: Any, eventually: Any
) -> None:
    flights.submit("a", lambda: 1 // 0)
    eventually(lambda: "shared call failed" in caplog.text)
