"""`dti evaluate miniature` on a tiny model: what it writes, prints and refuses."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dti_engine.cli.app import app
from dti_engine.evaluation.rows import LENGTHS

pytestmark = pytest.mark.slow


def evaluate_miniature(folder: Path, weights: Path, *options: str) -> Result:
    tiny = ["--quick", "--steps", "2", "--model", str(weights), "--dtype", "float32"]
    return CliRunner().invoke(
        app, ["evaluate", "miniature", "--output", str(folder), *tiny, *options]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command") / "evaluation"


@pytest.fixture(scope="module")
def ran(folder: Path, evaluation_weights: Path) -> Result:
    return evaluate_miniature(folder, evaluation_weights, "--seed", "3")


def test_it_tells_the_verdicts_and_where_the_rest_is(ran: Result, folder: Path) -> None:
    assert ran.exit_code == 0, ran.output
    assert "verdict" in ran.stdout
    written = [Path(line) for line in ran.stdout.splitlines()[-3:]]
    assert written == [folder / name for name in ("report.md", "sheet.png", "results.json")]
    assert all(path.stat().st_size > 1000 for path in written)


def test_progress_goes_to_stderr_by_name_and_number(ran: Result) -> None:
    assert "train dti 0: 6 of 6" in ran.stderr
    assert "generate subjects: 192 of 192" in ran.stderr
    num_images = 2 * 2 * 3 * 8 + 4 * 8 * (6 + 2 + len(LENGTHS))
    expected = f"20 tokens to train and {num_images} images to generate, minus finished ones"
    assert expected in ran.stderr


def test_the_report_has_a_command_that_finds_all_of_it_done(
    ran: Result, folder: Path, evaluation_weights: Path
) -> None:
    (command,) = (
        line for line in (folder / "report.md").read_text().splitlines() if line.startswith("dti ")
    )
    assert command == (
        "dti evaluate miniature --quick --num-training-seeds 1 --num-image-seeds 1 --steps 2 "
        "--seed 3 --model tiny-miniature --dtype float32 --output evaluation"
    )
    arguments = ("--num-training-seeds", "1", "--num-image-seeds", "1", "--seed", "3", "--json")
    again = evaluate_miniature(folder, evaluation_weights, *arguments)
    printed = json.loads(again.stdout)
    assert printed == json.loads((folder / "results.json").read_text())
    assert printed["num_images"] == 2 * 2 * 3 * 8 + 4 * 8 * (6 + 2 + len(LENGTHS))
    assert "generate subjects: 192 of 192" in again.stderr


def test_other_options_are_refused_in_the_same_folder(
    ran: Result, folder: Path, evaluation_weights: Path
) -> None:
    refused = evaluate_miniature(folder, evaluation_weights, "--seed", "4")
    assert refused.exit_code == 2
    assert "other options or weights" in refused.stderr


def test_weights_without_a_scorer_are_refused(tmp_path: Path, evaluation_weights: Path) -> None:
    shutil.copytree(evaluation_weights, tmp_path / "weights")
    (tmp_path / "weights" / "scorer.safetensors").unlink()
    refused = evaluate_miniature(tmp_path / "out", tmp_path / "weights")
    assert refused.exit_code == 2
    assert "has no scorer.safetensors" in refused.stderr
