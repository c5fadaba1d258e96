"""Workers whose starts fail are started ever more slowly."""

from collections.abc import Callable

import pytest

from services.supervisor.autoscaler import StartBackoff
from services.training.pool import WorkerStatus


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> StartBackoff:
    return StartBackoff(clock)


def pending(name: str) -> WorkerStatus:
    return WorkerStatus(name, "pending")


def running(name: str) -> WorkerStatus:
    return WorkerStatus(name, "running")


def pauses(
    backoff: StartBackoff, clock: Clock, die: Callable[[str], None], count: int
) -> list[float]:
    """How long nobody is started after each of so many."""
    waits: list[float] = []
    for number in range(count):
        assert backoff.may_start
        die(f"w{number}")
        began = clock.now
        while not backoff.may_start:
            clock.now += 1
        waits.append(clock.now - began)
    return waits


SLOWER = [5, 15, 60, 300, 300]


def test_those_that_die_young_are_followed_ever_more_slowly(
    backoff: StartBackoff, clock: Clock
) -> None:
    def die(name: str) -> None:
        backoff.started(name)
        backoff.update([running(name)])
        clock.now += 1
        backoff.update([])

    assert pauses(backoff, clock, die, 5) == SLOWER
    # One that works ends that.
    backoff.update([running("good")])
    clock.now += 31
    backoff.update([running("good")])
    backoff.update([])
    assert backoff.may_start


def test_so_are_those_that_never_work_however_long_they_wait_and_load(
    backoff: StartBackoff, clock: Clock
) -> None:
    def die(name: str) -> None:
        backoff.started(name)
        for _ in range(10):
            clock.now += 30
            backoff.update([pending(name)])
        backoff.update([])

    assert pauses(backoff, clock, die, 5) == SLOWER


def test_and_those_that_are_gone_before_anybody_has_seen_them(
    backoff: StartBackoff, clock: Clock
) -> None:
    def die(name: str) -> None:
        backoff.started(name)
        clock.now += 1
        backoff.update([])

    assert pauses(backoff, clock, die, 5) == SLOWER


def test_those_that_were_drained_have_not_failed(backoff: StartBackoff, clock: Clock) -> None:
    backoff.update([running("a"), pending("b"), WorkerStatus("c", "running")])
    backoff.drained("a")
    backoff.drained("b")
    clock.now += 1
    # By a node that goes, which nobody here has asked for.
    backoff.update([running("a"), WorkerStatus("c", "draining")])
    clock.now += 1
    backoff.update([])
    assert backoff.may_start
