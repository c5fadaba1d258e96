"""`dti train` stopped, killed, and gone on with: in real processes, and by signals in this one."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.cli.app import app
from dti_engine.training.checkpoint import Checkpoint
from dti_engine.training.loop import Trainer

pytestmark = pytest.mark.slow

NAMES = ("anna", "bob", "cleo")
STEPS = 60
OPTIONS = ["--recipe", "miniature", "--set", "batch_size=2", "--set", "resolution=16", "-i", "dog"]
OPTIONS += ["--lr", "0.004", "--slots", "2", "--vectors", "2", "--checkpoint-every", "2"]
OPTIONS += ["--validation-images", "0"]
# Where tests run in the background, a shell may have told them to ignore Ctrl-C.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from dti_engine.cli.app import main
main()
"""

Dti = Callable[..., Result]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in NAMES:
        (folder / name).mkdir()
        for i in range(2):
            pixels = rng.integers(256, size=(32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return [folder / name for name in NAMES]


@pytest.fixture
def arguments(photos: list[Path], tiny_checkpoint: Path, tmp_path: Path) -> list[str]:
    """Return the arguments of a run of three subjects in two slots."""
    named = ["--model", tiny_checkpoint, "--output", tmp_path / "tokens", "--steps", STEPS]
    return [str(each) for each in ["train", *photos, *OPTIONS, *named]]


@pytest.fixture(scope="module")
def expected(
    photos: list[Path], tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Tensors by name, of a run without a stop."""
    output = tmp_path_factory.mktemp("expected")
    named = ["--model", tiny_checkpoint, "--output", output, "--steps", STEPS]
    result = _dti("train", *photos, *OPTIONS, *named)
    assert result.exit_code == 0, result.output
    return _tokens(output)


def _dti(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def _tokens(output: Path) -> dict[str, Any]:
    return {path.stem: safetensors.torch.load_file(path) for path in output.glob("*.safetensors")}


def _assert_same(output: Path, expected: dict[str, Any]) -> None:
    tokens = _tokens(output)
    assert tokens.keys() == expected.keys()
    for name, tensors in tokens.items():
        assert tensors.keys() == expected[name].keys()
        assert all(each.equal(expected[name][key]) for key, each in tensors.items())


def _start(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _after_reports(process: "subprocess.Popen[str]", count: int) -> None:
    """Wait until it has told of progress so many times."""
    assert process.stderr
    while count and (line := process.stderr.readline()):
        count -= ": step " in line


# Real processes


def test_a_run_killed_at_any_time_ends_with_the_tokens_of_one_that_was_not(
    arguments: list[str], expected: dict[str, Any], tmp_path: Path
) -> None:
    rng, num_killed, returned = random.Random(0), 0, None
    options: list[str] = []
    while returned != 0:
        with _start([*arguments, *options]) as process:
            if num_killed < 3:
                _after_reports(process, rng.randint(2, 5))
                process.kill()
            _, notes = process.communicate()
        returned, options = process.returncode, ["--resume"]
        assert returned in (0, -signal.SIGKILL), notes
        num_killed += returned != 0
    assert num_killed >= 2
    _assert_same(tmp_path / "tokens", expected)
    assert not list((tmp_path / "tokens").glob("checkpoints/*.safetensors"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_run_that_then_goes_on(
    arguments: list[str], expected: dict[str, Any], tmp_path: Path, number: int, code: int
) -> None:
    with _start(arguments) as process:
        _after_reports(process, 1)
        process.send_signal(number)
        results, notes = process.communicate()
    assert process.returncode == code, notes
    assert results == ""
    assert (
        "stopped: 0 tokens were written, 3 subjects are unfinished, 2 of them with checkpoints"
        in notes
    )
    assert "--resume" in notes
    assert "Traceback" not in notes
    checkpoints = sorted((tmp_path / "tokens/checkpoints").iterdir())
    assert [path.stem for path in checkpoints] == ["anna", "bob"]
    assert max(path.stat().st_size for path in checkpoints) < 100_000
    result = _dti(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    _assert_same(tmp_path / "tokens", expected)


# Signals in this process, at a certain step


@pytest.fixture
def raise_after(monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> Callable[..., None]:
    """raise_after(step, signal, ...): these reach the process in that packed step."""

    def prepare(required: int, *numbers: int) -> None:
        plain, steps = Trainer.step, iter(range(1, 10_000))

        def step(trainer: Trainer) -> Any:
            if next(steps) == required:
                for number in numbers:
                    signal.raise_signal(number)
            return plain(trainer)

        monkeypatch.setattr(Trainer, "step", step)

    return prepare


def test_what_is_finished_is_skipped_and_what_is_not_goes_on(
    arguments: list[str],
    expected: dict[str, Any],
    tmp_path: Path,
    raise_after: Callable[..., None],
) -> None:
    raise_after(STEPS + 5, signal.SIGTERM)
    stopped = _dti(*arguments, "--json")
    assert stopped.exit_code == 143
    report = json.loads(stopped.stdout.splitlines()[-1])
    assert [each["subject"] for each in report["tokens"]] == ["anna", "bob"]
    assert report["unfinished"] == [{"subject": "cleo", "checkpoint_step": 5}]
    checkpoint = Checkpoint.load(tmp_path / "tokens/checkpoints/cleo.safetensors")
    assert (checkpoint.header.step, checkpoint.header.slot) == (5, 0)

    result = _dti(*arguments, "--json", "--resume")
    assert result.exit_code == 0
    report = json.loads(result.stdout.splitlines()[-1])
    assert [each["subject"] for each in report["skipped"]] == ["anna", "bob"]
    assert [each["subject"] for each in report["tokens"]] == ["cleo"]
    assert "anna: finished by an earlier run" in result.stderr
    _assert_same(tmp_path / "tokens", expected)
    assert not (tmp_path / "tokens/checkpoints").exists()

    again = _dti(*arguments, "--resume")
    assert again.exit_code == 0
    assert len(again.stdout.splitlines()) == 3


def test_a_second_ctrl_c_ends_at_once(
    arguments: list[str], tmp_path: Path, raise_after: Callable[..., None]
) -> None:
    raise_after(4, signal.SIGINT, signal.SIGINT)
    result = _dti(*arguments)
    assert result.exit_code == 130
    assert "3 subjects are unfinished, 2 of them with checkpoints" in result.stderr
    checkpoint = Checkpoint.load(tmp_path / "tokens/checkpoints/anna.safetensors")
    assert checkpoint.header.step == 2  # the last that was due, none of this step


def test_handlers_of_signals_are_put_back(
    arguments: list[str], raise_after: Callable[..., None]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    raise_after(1, signal.SIGTERM)
    assert _dti(*arguments).exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_signal_in_the_last_step_leaves_nothing_unfinished(
    arguments: list[str], raise_after: Callable[..., None]
) -> None:
    raise_after(2 * STEPS, signal.SIGTERM)
    result = _dti(*arguments)
    assert result.exit_code == 0
    assert "stopped" not in result.stderr


# What does not fit


@pytest.fixture
def stopped(arguments: list[str], raise_after: Callable[..., None]) -> list[str]:
    """Return the arguments of a run with two tokens written and one subject unfinished."""
    raise_after(STEPS + 5, signal.SIGTERM)
    assert _dti(*arguments).exit_code == 143
    return arguments


def test_without_resume_a_run_with_checkpoints_is_refused_and_they_stay(
    stopped: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "tokens/checkpoints/cleo.safetensors"
    before = path.read_bytes()
    result = _dti(*stopped)
    assert result.exit_code == 2
    assert "1 of the subjects are unfinished" in result.stderr
    assert "cleo. Add --resume to continue from them, or delete them" in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--seed", "1"], "seed was 0, is now 1"),
        (["--lr", "0.05"], "lr was 0.004, is now 0.05"),
        (["--steps", "30"], "steps was 60, is now 30"),
        (["--vectors", "1"], "num_vectors was {'text_encoder': 2}, is now {'text_encoder': 1}"),
    ],
)
def test_tokens_and_checkpoints_of_another_training_are_refused_by_name(
    stopped: list[str], tmp_path: Path, option: list[str], reason: str
) -> None:
    result = _dti(*stopped, "--resume", *option)
    assert result.exit_code == 2
    assert f"failed: anna: '{tmp_path}/tokens/anna.safetensors' comes from another" in (
        result.stderr
    )
    assert f"the checkpoint '{tmp_path}/tokens/checkpoints/cleo.safetensors' does not match" in (
        result.stderr
    )
    assert result.stderr.count(reason) == 3
    assert (tmp_path / "tokens/checkpoints/cleo.safetensors").exists()


def test_a_damaged_checkpoint_is_refused_by_name_and_the_rest_is_skipped(
    stopped: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "tokens/checkpoints/cleo.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = _dti(*stopped, "--resume")
    assert result.exit_code == 1
    assert f"failed: cleo: the checkpoint '{path}' cannot be used: it is damaged" in result.stderr
    path.unlink()
    assert _dti(*stopped, "--resume").exit_code == 0


def test_a_caption_that_has_changed_is_noticed_in_tokens_and_checkpoints(
    stopped: list[str], photos: list[Path]
) -> None:
    notes = [folder / "bundle.json" for folder in (photos[1], photos[2])]
    try:
        for path in notes:
            path.write_text(json.dumps({"images": {"0.png": {"caption": "a {} on a beach"}}}))
        result = _dti(*stopped, "--resume")
    finally:
        for path in notes:
            path.unlink()
    assert result.exit_code == 1
    assert (
        result.stderr.count(
            "images, captions or masks have changed; they were those of 0.png, 1.png"
        )
        == 2
    )
    assert "anna: finished by an earlier run" in result.stderr
