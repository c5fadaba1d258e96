"""`dti train` tries tokens out: images, scores and flags; the best of the kept steps wins."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli import validation
from dti_engine.cli.app import app
from dti_engine.cli.run_log import read_events
from dti_engine.miniature.world.subjects import draw_subject, held_out_subjects
from dti_engine.quality.validation import TokenValidator

Dti = Callable[..., Result]
SHORT = ["--recipe", "miniature", "--set", "batch_size=1", "--set", "resolution=16", "--slots", "2"]


@pytest.fixture(scope="module")
def dti() -> Dti:
    """dti("train", folder, ...) -> what the command did."""
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles of noise, which say what they are."""
    folders = [tmp_path_factory.mktemp("photos") / name for name in ("rex", "tom")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        random = np.random.default_rng(seed)
        for i in range(2):
            pixels = random.integers(256, size=(32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / "bundle.json").write_text('{"initializer": "dog"}')
    return folders


def quality_of(path: Path) -> tuple[Artifact, object]:
    artifact = Artifact.load(path)
    assert artifact.manifest.training
    return artifact, artifact.manifest.training.quality


def test_without_a_scorer_tokens_are_generated_and_not_scored(
    dti: Dti, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = ["--model", tiny_checkpoint, "--output", tmp_path]
    result = dti("train", *photos, *SHORT, "--steps", "2", "--validation-images", "2", *model)
    assert result.exit_code == 0, result.output
    assert "2 tokens are validated, " in result.stderr
    for name in ("rex", "tom"):
        _, quality = quality_of(tmp_path / f"{name}.safetensors")
        assert quality.scorer is None
        assert len(quality.images) == 2
        assert all((tmp_path / "validation" / name / f"{i}.png").exists() for i in range(2))
        assert (tmp_path / "validation" / name / "reference.jpg").exists()


def test_the_best_of_the_steps_cannot_be_taken_where_nothing_scores(
    dti: Dti, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = ["--model", tiny_checkpoint, "--output", tmp_path]
    refused = dti("train", *photos, *SHORT, "--steps", "3", "--keep-every", "1", *model)
    assert refused.exit_code == 2
    assert "add --validation-images 0 to keep them" in refused.stderr
    saved = dti(
        "train",
        *photos,
        *SHORT,
        "--steps",
        "3",
        "--keep-every",
        "1",
        "--validation-images",
        "0",
        *model,
    )
    assert saved.exit_code == 0, saved.output
    saved = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("steps/*/*"))
    assert saved == [f"steps/{name}/{i}.safetensors" for name in ("rex", "tom") for i in (1, 2)]
    artifact, quality = quality_of(tmp_path / "rex.safetensors")
    assert quality is None
    assert artifact.manifest.training.steps_done == 3


def test_resume_validates_a_token_that_was_not_validated_and_only_once(
    dti: Dti, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    train = ["train", *photos, *SHORT, "--steps", "2", "--model", tiny_checkpoint]
    train += ["--output", tmp_path]
    assert dti(*train, "--validation-images", "0").exit_code == 0
    assert quality_of(tmp_path / "rex.safetensors")[1] is None
    assert dti(*train, "--validation-images", "1", "--resume").exit_code == 0
    assert quality_of(tmp_path / "rex.safetensors")[1] is not None
    before = (tmp_path / "rex.safetensors").read_bytes()
    assert dti(*train, "--validation-images", "1", "--resume").exit_code == 0
    assert (tmp_path / "rex.safetensors").read_bytes() == before


@pytest.mark.usefixtures("ctrl_c")
def test_a_stop_during_validation_is_reported_and_resume_continues(
    dti: Dti,
    photos: list[Path],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examine, calls = TokenValidator.validate, itertools.count(1)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return examine(*arguments, **options)

    train = ["train", *photos, *SHORT, "--steps", "2", "--model", tiny_checkpoint]
    train += ["--output", tmp_path, "--validation-images", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(TokenValidator, "validate", interrupted)
        patch.setattr(validation, "_GROUP_SIZE", 1)
        result = dti(*train)
    assert result.exit_code == 130
    assert "1 tokens are not validated yet; the same command with --resume" in result.stderr
    assert quality_of(tmp_path / "rex.safetensors")[1] is not None
    assert quality_of(tmp_path / "tom.safetensors")[1] is None
    assert dti(*train, "--resume").exit_code == 0
    assert quality_of(tmp_path / "tom.safetensors")[1] is not None


@pytest.fixture(scope="module")
def scored(dti: Dti, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Two subjects of the miniature's own world, kept on their way; one learns nothing."""
    folder = tmp_path_factory.mktemp("scored")
    held_out = held_out_subjects("demo")[:2]
    for subject, rate in zip(held_out, (0.1, 1e-6), strict=True):
        draw_subject(subject, folder / "photos" / subject.name, count=3)
        description = {
            "subject": subject.name,
            "initializer": subject.class_word,
            "training": {"lr": rate},
        }
        (folder / "photos" / subject.name / "bundle.json").write_text(json.dumps(description))
    bundles = sorted((folder / "photos").iterdir())
    options = ["--steps", "9", "--keep-every", "3", "--slots", "2", "--set", "schedule=constant"]
    return folder, dti(
        "train", *bundles, *options, "--validation-images", "2", "-o", folder / "tokens"
    )


def test_the_best_of_the_kept_steps_is_the_token(scored: tuple[Path, Result]) -> None:
    folder, result = scored
    assert result.exit_code == 0, result.output
    for subject in held_out_subjects("demo")[:2]:
        artifact, quality = quality_of(folder / "tokens" / f"{subject.name}.safetensors")
        training = artifact.manifest.training
        assert quality.scorer == "miniature scorer"
        assert 0 <= quality.subject_score <= 1
        assert training.stop_reason == ("budget" if training.steps_done == 9 else "chosen")
        saved = {int(path.stem) for path in (folder / "tokens" / "steps" / subject.name).iterdir()}
        assert saved == {3, 6} | ({9} - {training.steps_done})


def test_the_results_of_validation_are_in_the_log(scored: tuple[Path, Result]) -> None:
    folder, _ = scored
    tried = {
        each["subject"]: each
        for each in read_events(folder / "tokens" / "run.jsonl")
        if each["event"] == "validated"
    }
    assert len(tried) == 2
    for name, each in tried.items():
        artifact, quality = quality_of(folder / "tokens" / f"{name}.safetensors")
        assert each["subject_score"] == quality.subject_score
        assert each["steps"] == artifact.manifest.training.steps_done
        assert tuple(each["flags"]) == quality.flags


def test_a_bundle_has_a_say_in_its_training_and_the_command_line_the_last_word(
    dti: Dti, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    own = {"steps": 3, "seed": 7, "lr": 0.01, "kappa": 0.5, "ema_decay": 0.5, "vectors": 2}
    description = {"initializer": "dog", "training": own}
    (photos[0] / "bundle.json").write_text(json.dumps(description))
    model = ["--model", tiny_checkpoint, "--output", tmp_path, "--validation-images", "0"]
    result = dti("train", *photos, *SHORT, "--lr", "0.02", *model, "--steps", "2")
    assert result.exit_code == 0, result.output
    rex, tom = (
        Artifact.load(tmp_path / f"{name}.safetensors").manifest.training for name in ("rex", "tom")
    )
    assert (rex.config.steps, tom.config.steps) == (2, 2)
    assert (rex.config.lr, tom.config.lr) == (0.02, 0.02)
    assert (rex.seed, tom.seed) == (7, 0)
    assert (rex.config.kappa, rex.config.ema_decay) == (0.5, 0.5)
    assert Artifact.load(tmp_path / "rex.safetensors").manifest.num_vectors == {"text_encoder": 2}


def test_a_bundle_with_impossible_settings_is_refused_and_the_others_continue(
    dti: Dti, photos: list[Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (photos[0] / "bundle.json").write_text('{"initializer": "dog", "training": {"kappa": 0.1}}')
    model = ["--model", tiny_checkpoint, "--output", tmp_path, "--validation-images", "0"]
    result = dti("train", *photos, *SHORT, "--set", "method=ti", "--steps", "2", *model)
    assert result.exit_code == 1
    assert "bundle.json asks for what this run cannot do" in result.stderr
    assert "kappa must be 0 with method 'ti'" in result.stderr
    assert (tmp_path / "tom.safetensors").exists()
    (photos[0] / "bundle.json").write_text('{"initializer": "dog", "training": {"color": 1}}')
    result = dti("train", *photos, *SHORT, "--steps", "2", *model)
    assert "training color is unknown" in result.stderr or "training.color" in result.stderr
