"""`dti init`: a bundle.json that training reads, from a folder as other trainers keep it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.cli import init as initialization
from dti_engine.cli.app import app
from dti_engine.errors import ModelLoadError
from dti_engine.images.bundles.bundle import load_bundle
from dti_engine.scorers import siglip


def dti(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], input=typed)


def _find_nothing(name: str, *, download: bool) -> Path:
    assert not download
    raise ModelLoadError(f"{name} is not in the cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three images, one with a caption and one with a mask."""
    folder = tmp_path / "My_Dog2"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    Image.new("L", (64, 64), 255).save(folder / "1-masklabel.png")
    (folder / "0.txt").write_text("a dog in Köln", "utf-8")
    return folder


def test_it_writes_what_it_finds_and_training_reads_it(folder: Path) -> None:
    result = dti("init", folder, "--class-word", "dog", "--kind", "person", "--resolution", 64)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{folder / 'bundle.json'}\n{folder / 'crops.png'}\n"
    assert "<my_dog2> is a dog: 3 images, 1 captions, 1 masks" in result.stderr
    assert f"dti train {folder} --model sdxl --output tokens" in result.stderr
    written = json.loads((folder / "bundle.json").read_text("utf-8"))
    assert written == {
        "placeholder": "<my_dog2>",
        "initializer": "dog",
        "kind": "person",
        "images": {"0.png": {"caption": "a {} in Köln"}},
    }
    bundle = load_bundle(folder)
    assert [image.caption for image in bundle.images] == ["a {} in Köln", None, None]
    assert [image.mask is not None for image in bundle.images] == [False, True, False]
    assert bundle.warnings == []


def test_it_replaces_nothing_without_force_and_keeps_other_fields_with_it(folder: Path) -> None:
    described = {
        "subject": "rex",
        "tags": ["pets"],
        "training": {"steps": 50},
        "images": {"2.png": {"mask": "1-masklabel.png"}},
    }
    before = json.dumps(described)
    (folder / "bundle.json").write_text(before)
    refused = dti("init", folder, "--class-word", "dog")
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert (folder / "bundle.json").read_text() == before
    assert not (folder / "crops.png").exists()
    for _ in range(2):
        result = dti("init", folder, "--class-word", "dog", "--force", "--json")
        assert result.exit_code == 0, result.stderr
        (found,) = json.loads(result.stdout)["bundles"]
        assert (found["placeholder"], found["captions"]) == ("<rex>", 1)
        assert found["sheet"] == str(folder / "crops.png")
    written = json.loads((folder / "bundle.json").read_text())
    assert written["images"].pop("0.png") == {"caption": "a {} in Köln"}
    assert written == {**described, "placeholder": "<rex>", "initializer": "dog"}


def test_a_photo_named_as_the_sheet_is_kept(folder: Path) -> None:
    (folder / "2.png").rename(folder / "crops.png")
    before = (folder / "crops.png").read_bytes()
    result = dti("init", folder, "--class-word", "dog")
    assert result.stdout.endswith(f"{folder / 'crops-2.png'}\n")
    assert (folder / "crops.png").read_bytes() == before
    assert len(load_bundle(folder).images) == 3


def test_a_person_is_asked_with_a_word_from_the_name_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialization, "_is_interactive", lambda: True)
    monkeypatch.setattr(siglip, "find_weights", _find_nothing)
    result = dti("init", folder, typed="\n")
    assert result.exit_code == 0, result.stderr
    assert "[dog]" in result.stderr
    assert json.loads((folder / "bundle.json").read_text())["initializer"] == "dog"


def test_a_vision_language_model_on_this_machine_suggests_the_word(
    folder: Path, tiny_scorers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_scorers / "siglip-base-patch16-512"
    photos = [image.image for image in load_bundle(folder).images]
    expected = siglip.likely_class_word(photos, weights)  # of random weights, so any word
    assert expected

    def find(name: str | Path, *, download: bool = True) -> Path:
        assert not download or name == weights  # found without, then loaded from its folder
        return weights

    monkeypatch.setattr(siglip, "find_weights", find)
    monkeypatch.setattr(initialization, "_is_interactive", lambda: True)
    result = dti("init", folder, typed="\n")
    assert result.exit_code == 0, result.stderr
    assert f"[{expected}]" in result.stderr
    assert json.loads((folder / "bundle.json").read_text())["initializer"] == expected


def test_a_script_has_to_give_the_word_unless_the_data_set_says_it(
    folder: Path, tmp_path: Path
) -> None:
    refused = dti("init", folder)
    assert refused.exit_code == 2
    assert "--class-word" in refused.stderr
    inner = tmp_path / "rex" / "10_sks dog"
    inner.parent.mkdir()
    folder.rename(inner)
    result = dti("init", inner.parent, "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["bundles"]
    assert (found["class_word"], found["placeholder"]) == ("dog", "<rex>")
    assert len(load_bundle(inner.parent).images) == 3


@pytest.mark.parametrize(
    ("name", "word"), [("My_Dog (2)", "dog"), ("dog6", "dog"), ("red-cat", "cat"), ("2026", None)]
)
def test_a_word_is_suggested_from_a_name(name: str, word: str | None) -> None:
    assert initialization.suggested_word(name) == word


def test_what_is_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    for path, reason in ((folder / "0.png", "is no folder"), (tmp_path / "x", "does not exist")):
        result = dti("init", path, "--class-word", "dog")
        assert result.exit_code == 2
        assert reason in result.stderr


@pytest.mark.parametrize("options", [["--class-word", ""], ["--placeholder", "rex"]])
def test_options_that_bundle_json_cannot_have_are_refused(folder: Path, options: list[str]) -> None:
    result = dti("init", folder, "--class-word", "dog", *options)
    assert result.exit_code == 2
    assert not (folder / "bundle.json").exists()
    assert not (folder / "crops.png").exists()
