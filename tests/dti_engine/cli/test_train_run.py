"""`dti train` on folders of bundles: who is refused, who goes on, and what is there from before."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli.app import app
from dti_engine.cli.run_log import EventLog, read_events

Dti = Callable[..., Result]
SHORT = ["--recipe", "miniature", "--set", "batch_size=1", "--set", "resolution=16", "--slots", "2"]


@pytest.fixture
def dti(tiny_checkpoint: Path, tmp_path: Path) -> Dti:
    """dti(*arguments) -> what `dti train` did on the tiny model, into `tokens`."""
    model = [
        "--model",
        tiny_checkpoint,
        "--output",
        tmp_path / "tokens",
        "--validation-images",
        "0",
    ]
    return lambda *arguments: CliRunner().invoke(
        app, [str(each) for each in ("train", *arguments, *SHORT, *model)]
    )


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    """Return a folder of three bundles, which say what they are."""
    random = np.random.default_rng(0)
    for name in ("anna", "rex", "tom"):
        folder = tmp_path / "subjects" / name
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(256, size=(32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / "bundle.json").write_text('{"initializer": "dog"}')
    return tmp_path / "subjects"


def tokens(tmp_path: Path) -> list[str]:
    return sorted(path.stem for path in (tmp_path / "tokens").glob("*.safetensors"))


def test_a_folder_of_bundles_trains_them_all(dti: Dti, subjects: Path, tmp_path: Path) -> None:
    result = dti(subjects, "--steps", "1")
    assert result.exit_code == 0, result.output
    assert tokens(tmp_path) == ["anna", "rex", "tom"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"initializer": "dog",}', "is not JSON"),
        ("{}", "what is in "),
        ('{"initializer": "dog", "kind": "cat"}', "kind should be"),
    ],
)
def test_a_bundle_that_is_refused_does_not_hold_up_the_others(
    dti: Dti, subjects: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (subjects / "rex" / "bundle.json").write_text(text)
    result = dti(subjects, "--steps", "1")
    assert result.exit_code == 1
    assert tokens(tmp_path) == ["anna", "tom"]
    assert reason in result.stderr
    failed = [
        each for each in read_events(tmp_path / "tokens" / "run.jsonl") if each["event"] == "failed"
    ]
    assert [each["subject"] for each in failed] == ["rex"]
    assert reason in failed[0]["error"]


def test_a_new_run_sets_older_tokens_aside_so_that_it_can_be_told_from_them(
    dti: Dti, subjects: Path, tmp_path: Path
) -> None:
    assert dti(subjects, "--steps", "1").exit_code == 0
    before = (tmp_path / "tokens" / "rex.safetensors").read_bytes()
    assert dti(subjects / "rex", "--steps", "2").exit_code == 0
    token = Artifact.load(tmp_path / "tokens" / "rex.safetensors")
    assert token.manifest.training.steps_done == 2
    (earlier,) = (tmp_path / "tokens" / "earlier").iterdir()
    assert earlier.read_bytes() == before
    assert earlier.name.startswith("rex-")
    assert tokens(tmp_path) == ["anna", "rex", "tom"]


def test_a_bundle_may_ask_for_more_vectors_than_words_have(
    dti: Dti, subjects: Path, tmp_path: Path
) -> None:
    text = '{"initializer": "dog", "training": {"vectors": 11}}'
    (subjects / "rex" / "bundle.json").write_text(text)
    assert dti(subjects, "--steps", "1").exit_code == 0
    token = Artifact.load(tmp_path / "tokens" / "rex.safetensors")
    assert token.manifest.num_vectors == {"text_encoder": 11}


def test_two_runs_cannot_be_at_work_in_one_folder(dti: Dti, subjects: Path, tmp_path: Path) -> None:
    assert dti(subjects, "--steps", "1").exit_code == 0
    with EventLog(tmp_path / "tokens", on_lost=print):
        refused = dti(subjects, "--steps", "1")
    assert refused.exit_code == 2
    assert "another run uses" in refused.stderr
    assert tokens(tmp_path) == ["anna", "rex", "tom"]  # not set aside
    assert dti(subjects, "--steps", "1").exit_code == 0
