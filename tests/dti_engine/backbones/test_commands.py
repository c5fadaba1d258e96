"""Trains, generates, exports and evaluates with a large model by the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli.app import app
from dti_engine.images.png import read_settings

FAMILIES = {"sdxl": "make_sdxl_checkpoint", "sana": "make_sana_checkpoint"}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def weights(family: str, request: pytest.FixtureRequest) -> Path:
    make: Callable[..., Path] = request.getfixturevalue(FAMILIES[family])
    return make()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, word, colour in (("rex", "dog", "red"), ("tom", "cat", "blue")):
        (folder / name).mkdir()
        for i in range(3):
            Image.new("RGB", (48 + i, 40), colour).save(folder / name / f"{i}.png")
        (folder / name / "bundle.json").write_text(json.dumps({"initializer": word}))
    return folder


def dti(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def tokens(family: str, weights: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokens")
    options = ["--model", weights, "--steps", 3, "--set", "resolution=16", "--validation-images", 1]
    dti("train", photos, *options, "--output", folder)
    return folder


def test_training_takes_the_recipe_of_the_family(family: str, tokens: Path) -> None:
    for name in ("rex", "tom"):
        training = Artifact.load(tokens / f"{name}.safetensors").manifest.training
        assert training is not None
        assert training.config.kappa == {"sdxl": 1e-4, "sana": 5e-5}[family]
        assert training.pooling == {"sdxl": "legacy", "sana": None}[family]


def test_images_with_learned_tokens_say_how_they_were_generated(
    weights: Path, tokens: Path, tmp_path: Path
) -> None:
    named = [
        word for name in ("rex", "tom") for word in ("--token", tokens / f"{name}.safetensors")
    ]
    options = ["--model", weights, "--steps", 2, "--no-instruction", "--output", tmp_path]
    dti("generate", "a <rex> and a <tom>", *named, *options)
    (image,) = tmp_path.glob("*.png")
    settings = read_settings(image)
    assert settings["instruction"] is False
    assert settings["tokens"].keys() == {"<rex>", "<tom>"}


def test_a_token_goes_to_the_programs_that_know_its_encoders(
    family: str, tokens: Path, tmp_path: Path
) -> None:
    words = ["export", tokens / "rex.safetensors", "-o", tmp_path / "rex.safetensors"]
    if family == "sdxl":
        dti(*words, "--format", "diffusers")
        assert len(list(tmp_path.iterdir())) == 2
    else:
        refused = CliRunner().invoke(app, list(map(str, words)))
        assert refused.exit_code == 2
        assert "keep our own file" in " ".join(refused.stderr.split())


def test_one_command_makes_the_papers_table(
    weights: Path, photos: Path, tiny_scorers: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a photo of a {}\na {} in the snow\n")
    settings = {
        "--model": weights,
        "--output": tmp_path / "evaluation",
        "--prompts": tmp_path / "prompts.txt",
        "--steps": 2,
        "--resolution": 16,
        "--num-image-seeds": 1,
        "--image-steps": 2,
        "--dinov2": tiny_scorers / "dinov2-base",
        "--siglip": tiny_scorers / "siglip-base-patch16-512",
    }
    dti(
        "evaluate", "photographs", photos, *(word for option in settings.items() for word in option)
    )
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    names = ["word", "ti", "ti-rescaled", "cross-init", "dti"]
    assert [row["name"] for row in results["rows"]] == names
    report = (tmp_path / "evaluation" / "report.md").read_text()
    assert "| CrossInit |" in report
