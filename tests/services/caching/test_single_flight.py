"""One goes, the others wait: also where it goes wrong."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from services.caching.single_flight import SingleFlight, wait
from services.errors import UnknownJobError


@pytest.fixture
def flights() -> Iterator[SingleFlight[str, int]]:
    made: SingleFlight[str, int] = SingleFlight(2)
    yield made
    made.close()


def test_what_one_brings_home_is_not_for_those_who_come_later(flights: Any) -> None:
    answers = iter(range(10))
    assert [flights.join("a", lambda: next(answers)) for _ in range(3)] == [0, 1, 2]


def test_keys_do_not_wait_for_each_other(flights: Any) -> None:
    assert flights.join("a", lambda: flights.join("b", lambda: 7)) == 7


def test_who_joins_what_was_sent_gets_it(flights: Any) -> None:
    go = threading.Event()
    sent = flights.send("a", lambda: go.wait(20) and 1)
    with pytest.raises(TimeoutError):
        wait(sent, 0.01)
    assert flights.send("a", lambda: 2) is sent
    threading.Timer(0.05, go.set).start()
    assert flights.join("a", lambda: 3) == 1


def test_errors_are_for_all_and_kept_by_none(flights: Any, at_once: Any) -> None:
    def fail() -> int:
        threading.Event().wait(0.1)
        raise UnknownJobError("none")

    got = at_once(10, lambda: flights.join("a", fail))
    assert {str(error) for error in got} == {"none"}
    assert len({id(error) for error in got}) == 10
    assert flights.join("a", lambda: 5) == 5


def test_when_the_one_who_went_is_stopped_another_goes(flights: Any) -> None:
    begun, go = threading.Event(), threading.Event()
    stopped = list[BaseException]()

    def be_stopped() -> int:
        begun.set()
        assert go.wait(20)
        raise KeyboardInterrupt

    def first() -> None:
        try:
            flights.join("a", be_stopped)
        except KeyboardInterrupt as error:
            stopped.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    threading.Timer(0.05, go.set).start()
    assert flights.join("a", lambda: 4) == 4
    thread.join(20)
    assert stopped


def test_once_closed_nothing_is_sent_and_nobody_waits(flights: Any) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> int:
        begun.release()
        assert go.wait(20)
        return 1

    held = [flights.send(key, hold) for key in "ab"]
    assert begun.acquire(timeout=20)
    assert begun.acquire(timeout=20)
    waiting = flights.send("c", lambda: 1)
    flights.close()
    go.set()
    assert [wait(each, 20) for each in held] == [1, 1]
    for flight in (waiting, flights.send("d", lambda: 1)):
        with pytest.raises(CancelledError):
            wait(flight, 20)
    assert flights.join("d", lambda: 6) == 6


def test_what_is_nobodys_error_is_logged(flights: Any, caplog: Any, eventually: Any) -> None:
    flights.send("a", lambda: 1 // 0)
    eventually(lambda: "flight failed" in caplog.text)
