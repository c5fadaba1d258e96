"""A job's progress on a terminal: it fits, and tells what it should."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from services.cli.progress import Board, JobTally, totals
from services.client.schemas import Counts, Job, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def job(count: int = 10, state: str = "running", **counts: int) -> Job:
    submitted = datetime(2026, 3, 1, tzinfo=UTC)
    return Job(job="7" * 26, state=state, count=count, counts=Counts(**counts), submitted=submitted)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> JobTally:
    """Of ten items, three of them at work."""
    tally = JobTally(job(queued=10), clock=clock)
    tally.stand(job(running=3, queued=7))
    tally.names.update({0: "rex", 1: "tom", 2: "ann"})
    tally.advance({2: Progress(step=5, steps=200), 0: Progress(step=100, steps=200, loss=0.1234)})
    tally.advance({1: Progress(phase="loading")})
    return tally


def lines(board: Board, width: int, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, height=height, force_terminal=True, color_system=None).print(
        board
    )
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_it_shows_those_at_work_in_order(tally: JobTally) -> None:
    header, *rows, counted, pace = lines(Board(tally), 80)
    assert header.split() == ["subject", "step", "loss", "phase"]
    assert [row.split()[0] for row in rows] == ["rex", "tom", "ann"]
    assert "100/200  0.1234" in rows[0]
    assert rows[1].split()[-3:] == ["-", "-", "loading"]
    assert "  5/200       -" in rows[2]
    assert counted == "0 succeeded, 0 failed, 3 running, 7 queued of 10"
    assert "5%  - subjects/h, 0:00:00 elapsed, - left" in pace


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 300])
def test_it_fits_the_terminal(tally: JobTally, width: int) -> None:
    tally.names[0] = "a-very-long-name-of-a-subject-" * 5
    tally.names[1] = "[red]猫[/]"
    board = Board(tally)
    board.note = "trying again: " + "no answer " * 40
    shown = lines(board, width)
    assert max(map(len, shown)) <= width
    assert len(shown) <= 8


def test_it_fits_the_height_too(tally: JobTally) -> None:
    tally.advance({index: Progress(step=1, steps=200) for index in range(100)})
    shown = lines(Board(tally), 80, height=12)
    assert len(shown) < 12
    assert "and 93 more at work" in shown


def test_it_is_one_line_of_totals_where_there_is_room(tally: JobTally) -> None:
    assert len(lines(Board(tally), 140)) == 1 + 3 + 1


def test_rare_states_are_counted_if_there_are_any(tally: JobTally) -> None:
    tally.stand(job(succeeded=4, failed=1, cancelled=5))
    assert totals(tally).startswith(
        "4 succeeded, 1 failed, 0 running, 0 queued, 5 cancelled of 10, "
    )


def test_pace_is_that_since_somebody_looked(clock: Clock) -> None:
    tally = JobTally(job(queued=10), clock=clock)
    clock.now = 1000  # waiting in the queue
    tally.stand(job(succeeded=2, running=4, queued=4))
    assert tally.per_hour is tally.left is None
    clock.now = 1060
    tally.advance({5: Progress(step=50, steps=100)})
    tally.stand(job(succeeded=3, running=4, queued=3))
    assert tally.done == 3.5
    assert tally.per_hour == pytest.approx(90)
    assert tally.left == pytest.approx(6.5 * 40)
    assert tally.fraction == 0.35


def test_whoever_ends_is_at_work_no_more(tally: JobTally) -> None:
    tally.end(0)
    tally.end(7)
    assert sorted(tally.rows) == [1, 2]
    tally.stand(job(state="succeeded", succeeded=10))
    assert tally.fraction == 1.0
