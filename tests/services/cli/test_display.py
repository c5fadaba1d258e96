"""The progress of a job on a terminal: it fits the screen, and shows items, states and pace."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from dti_engine.cli import progress as display
from services.cli.display import JobProgress
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
def progress(clock: Clock) -> JobProgress:
    """Ten items, three of them running."""
    shown = JobProgress(job(queued=10), ["rex", "tom", "ann"], is_live=False, get_time=clock)
    shown.update_job(job(running=3, queued=7))
    shown.update_items({0: Progress(step=100, steps=200, loss=0.1234, phase="training")})
    shown.update_items({1: Progress(phase="loading"), 2: Progress(step=5, steps=200)})
    return shown


def lines(
    shown: JobProgress, monkeypatch: pytest.MonkeyPatch, width: int, height: int = 24
) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "notes", console)
    console.print(shown)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_running_items_and_totals_are_shown(
    progress: JobProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    *rows, counts, pace = lines(progress, monkeypatch, 80)
    assert [row.split()[0] for row in rows] == ["rex", "tom", "ann"]
    assert rows[0].endswith("100/200 loss 0.1234, training")
    assert rows[1].endswith("loading")
    assert rows[2].endswith("5/200")
    assert counts == "0 succeeded, 0 failed, 3 running, 7 queued of 10"
    assert "5% - subjects/h 0:00:00 elapsed -:--:-- left" in pace


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 300])
def test_it_fits_the_width(
    progress: JobProgress, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    progress.names[0] = "a-very-long-name-of-a-subject-" * 5
    progress.names[1] = "[red]猫[/]"
    progress.update_items({0: Progress(step=1, steps=2), 1: Progress(step=1, steps=2)})
    progress.note = "trying again: " + "no answer " * 40
    shown = lines(progress, monkeypatch, width)
    assert max(map(len, shown)) <= width
    if width >= 60:
        assert len(shown) == 6


def test_it_fits_the_height(progress: JobProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    progress.update_items({index: Progress(step=1, steps=200) for index in range(100)})
    shown = lines(progress, monkeypatch, 80, height=12)
    assert len(shown) < 12
    assert "and 93 more running" in shown


def test_rare_states_are_counted_if_there_are_any(progress: JobProgress) -> None:
    progress.update_job(job(succeeded=4, failed=1, cancelled=5))
    assert progress.totals().startswith(
        "4 succeeded, 1 failed, 0 running, 0 queued, 5 cancelled of 10, "
    )


def test_the_pace_is_that_since_work_was_first_seen(clock: Clock) -> None:
    progress = JobProgress(job(queued=10), is_live=False, get_time=clock)
    clock.now = 1000  # in the queue
    progress.update_job(job(succeeded=2, running=4, queued=4))
    assert "- subjects/h" in progress.totals()
    clock.now = 1060
    progress.update_items({5: Progress(step=50, steps=100)})
    progress.update_job(job(succeeded=3, running=4, queued=3))
    assert progress.fraction == 0.35
    # 1.5 items in 60 s, so that 6.5 more take 260 s.
    assert "35%, 90 subjects/h, 0:17:40 elapsed, 0:04:20 left" in progress.totals()


def test_ended_items_are_not_shown_as_running(progress: JobProgress) -> None:
    progress.end(0)
    progress.end(7)
    assert progress.running() == [1, 2]
    progress.end(1)
    progress.end(2)
    progress.update_job(job(state="succeeded", succeeded=10))
    assert progress.fraction == 1.0
