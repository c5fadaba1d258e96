"""Progress and summary of `dti train`: live lines that fit the terminal, plain lines elsewhere."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dti_engine.cli import console as terminal
from dti_engine.cli import progress
from dti_engine.cli import resume as stopping
from dti_engine.cli import summary as summaries
from dti_engine.cli.console import say
from dti_engine.cli.progress import ProgressBar, TrainingProgress, span
from dti_engine.cli.run_log import EventLog, read_events
from dti_engine.cli.summary import RunSummary
from dti_engine.errors import InvalidBundleError
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.metrics import StepMetrics


class Clock:
    """Stands still until a test advances it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress_of(clock: Clock) -> Callable[..., TrainingProgress]:
    """progress_of(subjects) -> that of a run with 200 steps for each, not live."""

    def make(num_subjects: int, *, steps: int = 200) -> TrainingProgress:
        return TrainingProgress(num_subjects, steps=steps, is_live=False, get_time=clock)

    return make


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Console]:
    """notes(is_terminal) -> a console in place of stderr."""

    def make(is_terminal: bool, *, width: int = 80, height: int = 24) -> Console:
        console = Console(
            file=io.StringIO(),
            width=width,
            height=height,
            force_terminal=is_terminal,
            highlight=False,
            color_system=None,
        )
        for module in (progress, terminal):
            monkeypatch.setattr(module, "notes", console)
        return console

    return make


def _report(subject: str, step: int, *, fixed_loss: float = 0.25) -> StepMetrics:
    return StepMetrics(subject, step, 10.0, 0.9, fixed_loss, 0.5, 0.01, 0.4, 0.1, 1.0, 1.0)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _screen(shown: TrainingProgress, console: Console) -> list[str]:
    """Return the text that the live display would show."""
    console.print(shown._display)
    return [line.rstrip() for line in _text(console).splitlines()]


# Pace


def test_pace_and_time_left_follow_from_the_steps_since_the_first(
    progress_of: Callable[..., TrainingProgress], clock: Clock
) -> None:
    shown = progress_of(10)
    for step in (20, 60, 120):
        shown.on_step([_report("rex", step), _report("tom", step)])
        clock.now += 60
    # One subject in two minutes after the first steps, and 9 left, less what was done at first.
    totals = shown._display.totals()
    assert "12%, 30 subjects/h, 0:03:00 elapsed, " in totals
    assert totals.endswith("0:17:36 left")


def test_subjects_with_budgets_and_starts_of_their_own_count_as_such(
    progress_of: Callable[..., TrainingProgress],
) -> None:
    shown = progress_of(2)
    shown.on_started(0, "rex", step=50, steps=100)
    shown.on_started(1, "tom", step=0, steps=400)
    assert shown._display.fraction == 0.25
    shown.on_step([_report("tom", 200)])
    assert shown._display.fraction == 0.5


def test_ended_subjects_are_counted_and_no_longer_shown(
    progress_of: Callable[..., TrainingProgress], notes: Callable[..., Console]
) -> None:
    shown, console = progress_of(4), notes(True)
    shown.on_started(0, "rex", step=0, steps=200)
    shown.on_ended("rex", "finished")
    shown.on_ended("tom", "failed")
    shown.on_ended("ann", "skipped")
    lines = _screen(shown, console)
    assert lines[0] == "1 finished, 1 failed, 1 skipped, 1 unfinished of 4"
    assert not any("rex" in line for line in lines)
    assert shown._display.fraction == pytest.approx(2 / 3)  # a skipped one is no work


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (0, "0:00:00"), (59.6, "0:01:00"), (90061, "25:01:01")]
)
def test_times_are_shown_in_hours(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


# Live lines


def test_a_line_has_subject_steps_loss_and_angle(
    progress_of: Callable[..., TrainingProgress], notes: Callable[..., Console]
) -> None:
    shown, console = progress_of(3), notes(True)
    shown.on_started(0, "rex", step=0, steps=200)
    shown.on_started(1, "tom", step=0, steps=200)
    shown.on_step([_report("rex", 60)])
    first, second, *_ = _screen(shown, console)
    assert first.split()[0] == "rex"
    assert first.endswith("60/200 fixed loss 0.2500, 28.6° from the prior")
    assert second.endswith("0/200")


def test_of_more_slots_than_lines_as_many_are_shown_as_fit(
    progress_of: Callable[..., TrainingProgress], notes: Callable[..., Console]
) -> None:
    shown, console = progress_of(100), notes(True, height=10)
    for slot in range(32):
        shown.on_started(slot, f"s{slot:02}", step=0, steps=200)
    lines = _screen(shown, console)
    assert len(lines) < 10
    assert [line.split()[0] for line in lines[:5]] == [f"s{slot:02}" for slot in range(5)]
    assert lines[5] == "and 27 more running"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 160])
def test_long_names_are_cut_in_the_middle_and_no_line_is_too_long(
    progress_of: Callable[..., TrainingProgress], notes: Callable[..., Console], width: int
) -> None:
    shown, console = progress_of(2), notes(True, width=width)
    name = "a-name-that-is-as-long-as-names-may-be-which-is-63-letters-0001"
    shown.on_started(0, name, step=0, steps=200)
    shown.on_step([_report(name, 100)])
    lines = _screen(shown, console)
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert lines[0].startswith("a-name-that-")
        assert lines[0].split()[0].endswith("0001")


def test_markup_in_a_name_is_a_name(
    progress_of: Callable[..., TrainingProgress], notes: Callable[..., Console]
) -> None:
    shown, console = progress_of(1), notes(True)
    shown.on_started(0, "[red]rex[/]", step=0, steps=200)
    assert _screen(shown, console)[0].startswith("[red]rex[/]")


def test_messages_stand_above_the_live_lines(notes: Callable[..., Console]) -> None:
    console = notes(True)
    with TrainingProgress(2, steps=200) as shown:
        shown.on_started(0, "rex", step=0, steps=200)
        shown.on_step([_report("rex", 1)])
        say("a long warning " * 20)
        shown.on_ended("rex", "finished")
    _, lines, below = _text(console).partition("a long warning")
    assert lines
    row, _, totals = below.partition("0 finished, 0 failed, 0 skipped, 2 unfinished of 2")
    assert "1/200" in row
    assert "\x1b[2K" in totals  # the lines below are erased before they are drawn anew
    assert "1 finished, 0 failed, 0 skipped, 1 unfinished of 2" in totals


def test_the_note_of_a_stop_is_among_the_live_lines_where_there_are_some(
    notes: Callable[..., Console],
    capfd: pytest.CaptureFixture[str],
) -> None:
    console = notes(True)
    with TrainingProgress(2, steps=200) as shown:
        shown.on_stopping()
        say("")
    assert stopping.NOTE in _text(console)
    assert stopping.NOTE not in capfd.readouterr().err
    with TrainingProgress(2, steps=200, is_live=False) as shown:
        shown.on_stopping()
    assert stopping.NOTE in capfd.readouterr().err


# Plain lines


def test_up_to_eight_subjects_have_lines_of_their_own(
    notes: Callable[..., Console], progress_of: Callable[..., TrainingProgress]
) -> None:
    console = notes(False)
    with progress_of(8) as shown:
        shown.on_started(0, "rex", step=0, steps=50)
        for step in range(1, 51):
            shown.on_step([_report("rex", step)])
    lines = _text(console).splitlines()
    assert len(lines) == 5
    assert lines[0] == (
        "  rex: step 10/50, fixed loss 0.2500, 28.6° from the prior, 0:00:10 elapsed, 0:00:40 left"
    )


@pytest.mark.parametrize(
    ("seconds_per_step", "expected"), [(0.1, {1}), (1.0, {7}), (1000.0, {20, 21})]
)
def test_more_have_lines_of_the_whole_run_a_bounded_number(
    notes: Callable[..., Console],
    progress_of: Callable[..., TrainingProgress],
    clock: Clock,
    seconds_per_step: float,
    expected: set[int],
) -> None:
    """Lines are at least 30 s and 5 % apart, with one at the end, however long the run takes."""
    console = notes(False)
    with progress_of(400, steps=2) as shown:
        for first in range(0, 400, 4):
            names = [f"s{first + slot}" for slot in range(4)]
            for slot, name in enumerate(names):
                shown.on_started(slot, name, step=0, steps=2)
            for step in (1, 2):
                clock.now += seconds_per_step
                shown.on_step([_report(name, step) for name in names])
            for name in names:
                shown.on_ended(name, "finished")
    lines = _text(console).splitlines()
    assert len(lines) in expected
    assert lines[-1].startswith("  400 finished, 0 failed, 0 skipped, 0 unfinished of 400, 100%, ")


def test_a_bar_is_a_line_for_each_fifth_where_there_is_no_terminal(
    notes: Callable[..., Console],
) -> None:
    console = notes(False)
    with ProgressBar("uploading", 100) as bar:
        for _ in range(100):
            bar.advance()
    assert _text(console).splitlines() == [f"  uploading: {n}/100" for n in (20, 40, 60, 80, 100)]


# At the end


@pytest.fixture
def many(tmp_path: Path) -> RunSummary:
    """Return the progress of 30 subjects, all of them skipped."""
    names = [f"s{number:02}" for number in range(30)]
    log = EventLog(tmp_path, on_lost=lambda reason: None)
    ended = RunSummary(tmp_path, names, CheckpointManager(tmp_path / "checkpoints", every=50), log)
    for name in names:
        ended.skip(name)
    return ended


def test_paths_of_many_go_to_a_pipe_in_full(
    many: RunSummary, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    many.report(as_json=False)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(tmp_path / f"s{n:02}.safetensors") for n in range(30)]
    assert "earlier run" not in printed.err


def test_of_many_a_terminal_gets_folder_and_counts(
    many: RunSummary,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(summaries, "results", Console(force_terminal=True))
    many.report(as_json=False)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}\n"
    assert "30 tokens were written, 30 of them from an earlier run" in printed.err


def test_a_failure_is_shown_at_once_and_counted_at_the_end(
    many: RunSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    many.fail("s31", InvalidBundleError("it is empty"))
    assert capsys.readouterr().err == "failed: s31: it is empty\n"
    many.report(as_json=False)
    assert "1 of 30 subjects failed; " in capsys.readouterr().err


def test_only_a_few_of_many_warnings_are_shown_and_all_are_logged(
    many: RunSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in many.names:
        many.warn(name, "has one image")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "has one image" in line] == lines[-21:-1]
    assert "there are more of these in" in lines[-1]
    logged = [each for each in read_events(many.log.path) if each["event"] == "warning"]
    assert len(logged) == 30
