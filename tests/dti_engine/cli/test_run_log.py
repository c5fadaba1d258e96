"""The log of a run: what `dti train` writes to run.jsonl and prints by --json, and who reads it."""

import errno
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine import __version__
from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli.app import app
from dti_engine.cli.run_log import FILE, EventLog, read_events
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError, OutputError
from dti_engine.training.loop import Trainer

pytestmark = pytest.mark.slow

STEPS = 45
SHORT = ["--recipe", "miniature", "--set", "batch_size=1", "--set", "resolution=16", "-i", "dog"]
SHORT += [
    "--dtype",
    "float32",
    "--validation-images",
    "0",
    "--steps",
    str(STEPS),
    "--slots",
    "2",
    "--checkpoint-every",
    "10",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images: anna, bob and cleo, broken, which is refused, and few, which is not."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, count in {"anna": 3, "bob": 3, "cleo": 3, "few": 1}.items():
        (folder / name).mkdir()
        for i in range(count):
            pixels = random.integers(256, size=(32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    (folder / "broken").mkdir()
    (folder / "broken" / "0.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def arguments(photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """arguments("anna", ...) -> of `dti train` on these folders, into tmp_path."""

    def make(*names: str, more: list[str] | None = None) -> list[str]:
        folders = [str(photos / name) for name in names]
        named = ["--model", str(tiny_checkpoint), "--output", str(tmp_path)]
        return ["train", *folders, *SHORT, *named, *(more or [])]

    return make


def _dti(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


def _of(kind: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in events if each["event"] == kind]


def _raise(message: str) -> None:
    raise AssertionError(message)


# Of a run


def test_a_run_logs_what_happens_to_every_subject(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    result = _dti(arguments("anna", "broken", "few"))
    assert result.exit_code == 1
    events = list(read_events(tmp_path / FILE))
    assert [each["event"] for each in (events[0], events[-1])] == ["started", "ended"]
    assert all(datetime.fromisoformat(each["time"]).utcoffset() is not None for each in events)

    started, ended = events[0], events[-1]
    assert (started["subjects"], started["slots"], started["resume"]) == (3, 2, False)
    assert (started["dtype"], started["engine_version"]) == ("float32", __version__)
    assert TrainConfig.parse(started["config"]).steps == STEPS
    assigned = [
        (each["subject"], each["slot"], each["step"]) for each in _of("slot_assigned", events)
    ]
    assert assigned == [("anna", 0, 0), ("few", 1, 0)]
    (failed,) = _of("failed", events)
    assert (failed["subject"], failed["kind"]) == ("broken", "InvalidBundleError")
    assert "'0.png': its content is not JPEG" in failed["error"]
    assert {each["subject"] for each in _of("warning", events)} == {"few"}
    assert ended["counts"] == {"finished": 2, "failed": 1, "skipped": 0, "unfinished": 0}
    assert [each["subject"] for each in ended["tokens"]] == ["anna", "few"]
    assert ended["failed"] == [{key: failed[key] for key in ("subject", "error", "kind")}]
    assert ended["subjects_per_hour"] == pytest.approx(7200 / ended["seconds"], rel=0.01)


def test_losses_are_logged_when_they_are_taken_on_the_fixed_batch(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert _dti(arguments("anna")).exit_code == 0
    events = list(read_events(tmp_path / FILE))
    curve, (finished,) = _of("progress", events), _of("finished", events)
    assert [each["step"] for each in curve] == [20, 40, STEPS]
    assert {each["steps"] for each in curve} == {STEPS}
    assert len({each["fixed_loss"] for each in curve}) == 3
    last = {"loss", "fixed_loss", "prior_angle_deg", "norm", "seconds"}
    assert {name: finished[name] for name in last} == {name: curve[-1][name] for name in last}
    assert (finished["steps"], finished["stop_reason"]) == (STEPS, "budget")
    token = Artifact.load(Path(finished["path"]))
    assert token.manifest.training
    assert token.manifest.training.metrics["fixed_loss"] == finished["fixed_loss"]


def test_json_prints_the_lines_of_the_log_and_nothing_else(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    result = _dti(arguments("anna", "broken", more=["--json", "--steps", "2"]))
    assert result.stdout == (tmp_path / FILE).read_text()
    last = json.loads(result.stdout.splitlines()[-1])
    assert {"tokens", "skipped", "failed", "unfinished"} < last.keys()


def test_a_run_that_goes_on_appends_to_the_log(
    arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, plain = iter(range(1, 10_000)), Trainer.step

    def step(trainer: Trainer) -> Any:
        if next(steps) == STEPS + 12:  # anna and bob are finished, cleo has begun
            raise KeyboardInterrupt
        return plain(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        assert _dti(arguments("anna", "bob", "cleo")).exit_code == 130
    assert _dti(arguments("anna", "bob", "cleo", more=["--resume"])).exit_code == 0
    events = list(read_events(tmp_path / FILE))
    assert [each["resume"] for each in _of("started", events)] == [False, True]
    assert [each["signal"] for each in _of("stopped", events)] == ["SIGINT"]
    first, second = _of("ended", events)
    assert first["unfinished"] == [{"subject": "cleo", "checkpoint_step": 10}]
    assert second["counts"] == {"finished": 1, "failed": 0, "skipped": 2, "unfinished": 0}
    assert [each["subject"] for each in _of("skipped", events)] == ["anna", "bob"]
    assigned = [(each["subject"], each["step"]) for each in _of("slot_assigned", events)]
    assert assigned == [("anna", 0), ("bob", 0), ("cleo", 0), ("cleo", 10)]
    # Steps 11 on are done twice, and none of them had been told.
    assert [each["step"] for each in _of("progress", events) if each["subject"] == "cleo"] == [
        *(20, 40, STEPS)
    ]


def test_the_log_of_a_run_that_is_killed_can_be_read_and_appended_to(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "dti_engine", *arguments("anna", "bob", more=["--json"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        while b'"progress"' not in process.stdout.readline():
            pass
        process.kill()
    log = tmp_path / FILE
    with log.open("ab") as file:
        file.write(b'{"event": "progress", "subj')  # as if killed while it wrote
    before = list(read_events(log))
    assert before[-1]["event"] == "progress"
    assert _dti(arguments("anna", "bob", more=["--resume"])).exit_code == 0
    events = list(read_events(log))
    assert events[: len(before)] == before
    assert events[len(before)]["event"] == "started"
    assert events[-1]["counts"]["finished"] == 2


def test_stdout_stays_clean_json_while_a_table_is_live_on_stderr(
    arguments: Callable[..., list[str]],
) -> None:
    watching, terminal = pty.openpty()
    command = [sys.executable, "-m", "dti_engine", *arguments("anna", "few", more=["--json"])]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        while chunk := _read(watching):
            shown += chunk
        assert process.stdout
        lines = process.stdout.read().splitlines()
    os.close(watching)
    assert process.returncode == 0, shown
    assert [json.loads(line)["event"] for line in lines][-1] == "ended"
    text = shown.decode()
    assert "0 finished, 0 failed, 0 skipped, 2 unfinished of 2" in text
    assert "2 finished, 0 failed, 0 skipped, 0 unfinished of 2" in text
    assert "warning: few: " in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # all writers are gone
        return b""


def test_a_log_that_cannot_be_written_ends_the_run_before_it_begins(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / FILE).mkdir()
    result = _dti(arguments("anna"))
    assert result.exit_code == 1
    assert "cannot write the run's log" in result.stderr
    assert "step" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_training_goes_on_if_the_log_is_lost_on_the_way(
    arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(log: EventLog, line: bytes) -> None:
        if b'"started"' not in line:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventLog, "_append", append)
    result = _dti(arguments("anna"))
    assert result.exit_code == 0
    assert result.stderr.count("No space left on device; training continues") == 1


# The log itself


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path, on_lost=_raise)
    log.write("failed", subject="rex", error="keine 7 €")
    log.write("progress", loss=nan, figures={"norm": [1.5, inf, 2]})
    failed, progress = read_events(log.path)
    assert (failed["event"], failed["subject"], failed["error"]) == ("failed", "rex", "keine 7 €")
    assert (progress["loss"], progress["figures"]) == (None, {"norm": [1.5, None, 2]})


def test_each_event_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path, on_lost=_raise)
    for count in range(1, 4):
        log.write("slot_assigned")
        assert len((tmp_path / FILE).read_text().splitlines()) == count


@pytest.mark.parametrize(
    "torn", [b'{"event": "se', b"{", b'{"event": "slot_assigned"', b"\xff\xfe", b"1"]
)
def test_a_line_that_was_cut_is_left_out_and_the_next_stands_alone(
    tmp_path: Path, torn: bytes
) -> None:
    EventLog(tmp_path, on_lost=_raise).write("started")
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    assert [each["event"] for each in read_events(tmp_path / FILE)] == ["started"]
    EventLog(tmp_path, on_lost=_raise).write("ended")
    assert [each["event"] for each in read_events(tmp_path / FILE)] == ["started", "ended"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_once(tmp_path: Path) -> None:
    reasons: list[str] = []
    log = EventLog(tmp_path, on_lost=reasons.append)
    log.path = Path("/dev/full")
    log.write("started")
    log.write("ended")
    assert len(reasons) == 1
    assert "No space left" in reasons[0]


def test_a_part_of_an_event_on_a_full_disk_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path, on_lost=lambda reason: None)
    plain = Path.open

    class Full:
        """A file that takes 5 bytes."""

        def __init__(self, path: Path) -> None:
            self._file = plain(path, "ab", buffering=0)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> int:
            return self._file.write(data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *_, **__: Full(path))
        log.write("started")
    log.write("ended")
    assert [each["event"] for each in read_events(log.path)] == ["ended"]


def test_a_log_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"run\.jsonl.*a run of dti train writes it"):
        list(read_events(tmp_path / FILE))


def test_a_log_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"run\.jsonl"):
        EventLog(tmp_path / "nowhere", on_lost=_raise)


def test_a_reader_of_stdout_that_goes_away_does_not_end_the_run(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "dti_engine", *arguments("anna", more=["--json"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        message = process.stderr.read().decode()
    assert process.returncode == 0, message
    assert message.count("stdout was closed") == 1
    assert (tmp_path / "anna.safetensors").exists()
    assert [each["event"] for each in read_events(tmp_path / FILE)][-1] == "ended"
