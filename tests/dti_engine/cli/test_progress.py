"""What `dti train` shows of many subjects: figures, a live table that fits, lines where no one is.

Screens are rendered to a console of a known size, times are those of a clock of its own.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from dti_engine.cli import console as terminal
from dti_engine.cli import progress
from dti_engine.cli import resume as stopping
from dti_engine.cli import summary as endings
from dti_engine.cli.console import say
from dti_engine.cli.progress import Board, Tally, TrainingProgress, span
from dti_engine.cli.run_log import EventLog, read_events
from dti_engine.cli.summary import Endings
from dti_engine.errors import InvalidBundleError
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.metrics import StepMetrics


class Clock:
    """Stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally_of(clock: Clock) -> Callable[..., Tally]:
    """tally_of(subjects, slots=4) -> of a run with 200 steps for each."""

    def make(num_subjects: int, *, slots: int = 4, steps: int = 200) -> Tally:
        return Tally(num_subjects, num_slots=slots, steps=steps, clock=clock)

    return make


def _report(subject: str, step: int, *, fixed_loss: float = 0.25) -> StepMetrics:
    return StepMetrics(subject, step, 10.0, 0.9, fixed_loss, 0.5, 0.01, 0.4, 0.1, 1.0, 1.0)


def _screen(tally: Tally, *, width: int = 80, height: int = 24, note: str = "") -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    board = Board(tally)
    board.note = note
    console.print(board)
    return [line.rstrip() for line in console.export_text().splitlines()]


def _step(tally: Tally, clock: Clock, step: int, subjects: Sequence[str]) -> None:
    """All of these do that step, which takes a second."""
    clock.now += 1
    tally.read([_report(each, step) for each in subjects])


# Figures


def test_time_left_is_that_of_the_rounds_still_to_come(
    tally_of: Callable[..., Tally], clock: Clock
) -> None:
    tally = tally_of(9, slots=4)
    for slot in range(4):
        tally.seat(slot, f"s{slot}", step=0, steps=200)
    assert tally.left is None
    for step in range(1, 51):
        _step(tally, clock, step, ["s0", "s1", "s2", "s3"])
    # 150 steps of these, then 4 more subjects, then the last one alone.
    assert tally.left == pytest.approx(150 + 200 + 200)
    assert tally.fraction == pytest.approx(1 / 9)
    assert tally.subjects_per_hour == pytest.approx(4 * 3600 / 200)


def test_subjects_with_budgets_and_starts_of_their_own_count_as_such(
    tally_of: Callable[..., Tally], clock: Clock
) -> None:
    tally = tally_of(3, slots=2)
    tally.seat(0, "long", step=0, steps=1000)
    tally.seat(1, "resumed", step=150, steps=200)
    for step in (1, 2, 3, 4, 5):
        clock.now += 2
        tally.read([_report("long", step), _report("resumed", 150 + step)])
    assert tally.left == pytest.approx(2 * (1000 - 5))  # the third fits in beside it
    assert tally.fraction == pytest.approx((5 / 1000 + 155 / 200) / 3)
    assert tally.subjects_per_hour == pytest.approx(3600 / 8 * (4 / 1000 + 4 / 200))


def test_a_pace_is_the_same_if_steps_are_read_ten_at_a_time(
    tally_of: Callable[..., Tally], clock: Clock
) -> None:
    tally = tally_of(2, slots=2)
    for first in (1, 11, 21):
        clock.now += 10
        steps = range(first, first + 10)
        tally.read([_report(name, step) for name in ("a", "b") for step in steps])
    assert tally.left == pytest.approx(170)


def test_who_has_ended_is_counted_and_no_longer_at_work(tally_of: Callable[..., Tally]) -> None:
    tally = tally_of(4)
    tally.seat(0, "a", step=0, steps=200)
    tally.seat(1, "b", step=0, steps=200)
    tally.end("a", "finished")
    tally.end("b", "failed")
    tally.end("c", "skipped")  # was never seated
    assert not tally.rows
    assert tally.ended == {"finished": 1, "failed": 1, "skipped": 1}
    assert tally.num_unfinished == 1
    assert tally.fraction == 0.75


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360_000, "100:00:00")],
)
def test_times_are_shown_in_hours(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


# The table


def test_a_row_says_slot_subject_step_loss_and_angle(
    tally_of: Callable[..., Tally], clock: Clock
) -> None:
    tally = tally_of(1, slots=1)
    tally.seat(0, "rex", step=0, steps=200)
    for step in range(1, 101):
        _step(tally, clock, step, ["rex"])
    assert _screen(tally) == [
        "slot  subject                        step  fixed loss  from prior",
        "   0  rex           ━━━━━━        100/200      0.2500       28.6°",
        "0 finished, 0 failed, 0 skipped, 1 unfinished of 1",
        "━━━━━━━━━━━━               50%  18 subjects/h, 0:01:40 elapsed, 0:01:40 left",
    ]


def test_what_is_not_known_yet_is_a_dash(tally_of: Callable[..., Tally]) -> None:
    tally = tally_of(2)
    tally.seat(1, "rex", step=0, steps=200)
    _, row, _, pace = _screen(tally)
    assert row.split() == ["1", "rex", "0/200", "-", "-"]
    assert pace.split() == ["0%", "-", "subjects/h,", "0:00:00", "elapsed,", "-", "left"]


def test_only_subjects_at_work_have_rows_in_order_of_slots(tally_of: Callable[..., Tally]) -> None:
    tally = tally_of(1000)
    for slot, name in ((3, "d"), (0, "a"), (2, "c"), (1, "b")):
        tally.seat(slot, name, step=0, steps=200)
    tally.end("b", "finished")
    tally.seat(1, "e", step=0, steps=200)
    assert [line.split()[:2] for line in _screen(tally)[1:-2]] == [
        *(["0", "a"], ["1", "e"], ["2", "c"], ["3", "d"])
    ]
    assert _screen(tally)[-2] == "1 finished, 0 failed, 0 skipped, 999 unfinished of 1000"


@pytest.mark.parametrize("height", [7, 12, 24, 70])
def test_of_more_slots_than_lines_as_many_are_shown_as_fit(
    tally_of: Callable[..., Tally], height: int
) -> None:
    tally = tally_of(1000, slots=64)
    for slot in range(64):
        tally.seat(slot, f"subject-{slot}", step=0, steps=200)
    for note in ("", "stopping"):
        shown = _screen(tally, height=height, note=note)
        rows = [line for line in shown if "subject-" in line]
        assert len(shown) < height  # the last line is the cursor's
        assert len(rows) == 64 or len(shown) == height - 1
        assert len(rows) == 64 or f"and {64 - len(rows)} more at work" in shown


@pytest.mark.parametrize("width", [24, 40, 50, 60, 80, 100, 200])
def test_long_names_are_cut_and_no_line_is_too_long(
    tally_of: Callable[..., Tally], clock: Clock, width: int
) -> None:
    tally = tally_of(100_000, slots=4)
    names = [f"{'x' * 60}-{slot}" for slot in range(4)]
    for slot, name in enumerate(names):
        tally.seat(slot, name, step=0, steps=200)
    for step in range(1, 51):
        _step(tally, clock, step, names)
    shown = _screen(tally, width=width)
    assert len(shown) == 1 + 4 + 2 - (width == 200)
    assert max(map(len, shown)) <= width
    if width >= 50:
        assert all("50/200" in row and "28.6°" in row for row in shown[1:5])
        assert ("…" in shown[1]) == (width < 200)
        assert [row.split()[1][-2:] for row in shown[1:5]] == ["-0", "-1", "-2", "-3"]
        assert "0:00:50 elapsed" in shown[-1]


def test_totals_are_one_line_if_there_is_room(tally_of: Callable[..., Tally]) -> None:
    (line,) = _screen(tally_of(12), width=120)
    assert line.startswith("0 finished, 0 failed, 0 skipped, 12 unfinished of 12")
    assert line.endswith("0%  - subjects/h, 0:00:00 elapsed, - left")


def test_markup_in_a_name_is_a_name(tally_of: Callable[..., Tally]) -> None:
    tally = tally_of(1)
    tally.seat(0, "[red]rex", step=0, steps=200)
    assert "[red]rex" in _screen(tally)[1]


# On a terminal, and without one


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Console]:
    """notes(is_terminal) -> the console that stderr is now."""

    def make(is_terminal: bool) -> Console:
        console = Console(
            file=io.StringIO(), width=80, height=24, force_terminal=is_terminal, highlight=False
        )
        for module in (progress, terminal):
            monkeypatch.setattr(module, "notes", console)
        return console

    return make


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_said_while_the_table_is_live_stands_above_it(
    notes: Callable[..., Console], tally_of: Callable[..., Tally]
) -> None:
    console, tally = notes(True), tally_of(2)
    with TrainingProgress(tally) as shown:
        tally.seat(0, "rex", step=0, steps=200)
        shown.on_step([_report("rex", 1)])
        say("a long warning " * 20)
        shown.on_ended("rex", "finished")
    _, said, below = _text(console).partition("a long warning")
    assert said
    row, _, totals = below.partition("0 finished, 0 failed, 0 skipped, 2 unfinished of 2")
    assert "1/200" in row
    assert "\x1b[2K" in totals  # what was under it is wiped before it is shown anew
    assert "1 finished, 0 failed, 0 skipped, 1 unfinished of 2" in totals


def test_the_note_of_a_stop_is_in_the_table_where_there_is_one(
    notes: Callable[..., Console],
    tally_of: Callable[..., Tally],
    capfd: pytest.CaptureFixture[str],
) -> None:
    console = notes(True)
    with TrainingProgress(tally_of(2)) as shown:
        shown.on_stopping()
        say("")
    assert stopping.NOTE in _text(console)
    assert stopping.NOTE not in capfd.readouterr().err
    with TrainingProgress(tally_of(2), is_live=False) as shown:
        shown.on_stopping()
    assert stopping.NOTE in capfd.readouterr().err


def test_up_to_eight_subjects_have_lines_of_their_own(
    notes: Callable[..., Console], tally_of: Callable[..., Tally]
) -> None:
    console, tally = notes(False), tally_of(8)
    with TrainingProgress(tally) as shown:
        tally.seat(0, "rex", step=0, steps=50)
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
    tally_of: Callable[..., Tally],
    clock: Clock,
    seconds_per_step: float,
    expected: set[int],
) -> None:
    """At least 30 s and 5 % apart, and one at the end, however long it takes."""
    console, tally = notes(False), tally_of(400, steps=2)
    with TrainingProgress(tally) as shown:
        for first in range(0, 400, 4):
            names = [f"s{first + slot}" for slot in range(4)]
            for slot, name in enumerate(names):
                tally.seat(slot, name, step=0, steps=2)
            for step in (1, 2):
                clock.now += seconds_per_step
                shown.on_step([_report(name, step) for name in names])
            for name in names:
                shown.on_ended(name, "finished")
    lines = _text(console).splitlines()
    assert len(lines) in expected
    assert lines[-1].startswith("  400 finished, 0 failed, 0 skipped, 0 unfinished of 400, 100%, ")


# At the end


@pytest.fixture
def many(tmp_path: Path) -> Endings:
    """Of 30 subjects, all of them skipped."""
    names = [f"s{number:02}" for number in range(30)]
    log = EventLog(tmp_path, on_lost=lambda reason: None)
    ended = Endings(tmp_path, names, CheckpointManager(tmp_path / "checkpoints", every=50), log)
    for name in names:
        ended.skip(name)
    return ended


def test_paths_of_many_go_to_a_pipe_in_full(
    many: Endings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    many.tell(as_json=False)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(tmp_path / f"s{n:02}.safetensors") for n in range(30)]
    assert "finished before" not in printed.err


def test_of_many_a_terminal_gets_folder_and_counts(
    many: Endings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(endings, "results", Console(force_terminal=True))
    many.tell(as_json=False)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}\n"
    assert "30 tokens are there, 30 of them from before" in printed.err


def test_a_failure_is_said_at_once_and_counted_at_the_end(
    many: Endings, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    many.fail("s31", InvalidBundleError("it is empty"))
    assert capsys.readouterr().err == "failed: s31: it is empty\n"
    many.tell(as_json=False)
    assert "1 of 30 subjects failed; " in capsys.readouterr().err


def test_of_many_warnings_a_few_are_said_and_all_are_logged(
    many: Endings, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in many.names:
        many.warn(name, "has one image")
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "has one image" in line] == said[-21:-1]
    assert "there are more of these in" in said[-1]
    logged = [each for each in read_events(many.log.path) if each["event"] == "warning"]
    assert len(logged) == 30
