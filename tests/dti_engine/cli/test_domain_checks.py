"""Photographs and unknown class words are refused before the miniature is trained on them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli.app import app


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A bundle of images that are textured like photographs."""
    folder = tmp_path / "rex"
    folder.mkdir()
    for index in range(3):
        noise = Image.effect_noise((100, 100), 50 + index).convert("RGB")
        noise.resize((300, 300), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def _train(folder: Path, *more: object) -> Result:
    output = folder.parent / "tokens"
    quick = ["--steps", 1, "--slots", 1, "--validation-images", 0]
    return _run("train", folder, "-o", output, *quick, *more)


def test_the_miniature_refuses_photographs_and_nothing_is_written(photographs: Path) -> None:
    result = _train(photographs, "-i", "dog")
    assert result.exit_code == 2
    assert "its images are photographs, and the model miniature knows only" in result.stderr
    assert "--model sdxl" in result.stderr
    assert not (photographs.parent / "tokens").exists()


def test_force_goes_on_and_the_manifest_and_the_report_keep_it(photographs: Path) -> None:
    result = _train(photographs, "-i", "dog", "--force")
    assert result.exit_code == 0, result.stderr
    assert "forced: its images are photographs" in " ".join(result.stderr.split())
    tokens = photographs.parent / "tokens"
    training = Artifact.load(tokens / "rex.safetensors").manifest.training
    assert training is not None
    (objection,) = training.forced
    assert objection.startswith("its images are photographs")
    assert _run("report", tokens).exit_code == 0
    assert "trained by --force: its images are photographs" in (tokens / "report.html").read_text()


def test_an_unknown_class_word_is_refused_with_near_ones(tmp_path: Path) -> None:
    (tmp_path / "rex").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "rex" / "a.png")
    result = _train(tmp_path / "rex", "-i", "dogs")
    assert result.exit_code == 2
    assert "near ones are dog" in " ".join(result.stderr.split())


def test_bundle_check_compares_with_a_model(photographs: Path) -> None:
    def errors(*more: object) -> list[str]:
        result = _run("bundle", "check", photographs, "--json", *more)
        (bundle,) = json.loads(result.stdout)["bundles"]
        assert result.exit_code == (2 if bundle["errors"] else 0)
        return [error["reason"] for error in bundle["errors"]]

    assert errors() == errors("--model", "sd15") == []
    assert errors("--model", "miniature")[0].startswith("its images are photographs")
    assert errors("--model", "miniature", "--force") == []
