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
    """Return the delays after each of `count` failed starts."""
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


def test_delays_grow_with_each_worker_that_ends_early(backoff: StartBackoff, clock: Clock) -> None:
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


def test_delays_grow_with_workers_that_never_become_ready(
    backoff: StartBackoff, clock: Clock
) -> None:
    def die(name: str) -> None:
        backoff.started(name)
        for _ in range(10):
            clock.now += 30
            backoff.update([pending(name)])
        backoff.update([])

    assert pauses(backoff, clock, die, 5) == SLOWER


def test_delays_grow_with_workers_that_vanish_before_they_are_seen(
    backoff: StartBackoff, clock: Clock
) -> None:
    def die(name: str) -> None:
        backoff.started(name)
        clock.now += 1
        backoff.update([])

    assert pauses(backoff, clock, die, 5) == SLOWER


def test_drained_workers_do_not_count_as_failed(backoff: StartBackoff, clock: Clock) -> None:
    backoff.update([running("a"), pending("b"), WorkerStatus("c", "running")])
    backoff.drained("a")
    backoff.drained("b")
    clock.now += 1
    # It drains because its node goes, which the supervisor did not ask for.
    backoff.update([running("a"), WorkerStatus("c", "draining")])
    clock.now += 1
    backoff.update([])
    assert backoff.may_start
