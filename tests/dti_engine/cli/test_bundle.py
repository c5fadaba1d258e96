"""`dti bundle`, and `dti train` on what it takes: folders, zips and tars with a bundle.json."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli import bundle as bundles
from dti_engine.cli.app import app

SHORT = ["--recipe", "miniature", "--steps", "2", "--set", "batch_size=2", "--set", "resolution=16"]
SAID = {
    "subject": "cust-7",
    "placeholder": "<rex>",
    "initializer": "dog",
    "kind": "person",
    "images": {"0.png": {"caption": "a {} on a beach", "mask": "mask.png"}},
}

Dti = Callable[..., Result]


@pytest.fixture(scope="module")
def dti() -> Dti:
    """dti("bundle", "check", folder, ...) -> what the command did."""
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a bundle of three images, one with its caption and mask."""
    folder = tmp_path / "My Rex"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(256, size=(32, 40 + 8 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    mask = Image.new("L", (40, 32))
    mask.paste(255, (0, 0, 20, 32))
    mask.save(folder / "mask.png")
    (folder / "bundle.json").write_text(json.dumps(SAID))
    return folder


@pytest.mark.parametrize("example", [*bundles.CHECK_EXAMPLES, *bundles.PREVIEW_EXAMPLES])
def test_examples_are_accepted_but_for_files_that_are_not_there(
    dti: Dti, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dti(*shlex.split(example)[1:])
    assert result.exit_code == 2
    assert "does not exist; give a folder, zip or tar" in result.output
    assert "Usage" not in result.output


# check


def test_check_tells_sizes_captions_masks_and_warnings(dti: Dti, folder: Path) -> None:
    result = dti("bundle", "check", folder, "--resolution", "64", "--json")
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)["bundles"]
    assert {name: report[name] for name in ("subject", "placeholder", "initializer", "kind")} == {
        name: SAID[name] for name in ("subject", "placeholder", "initializer", "kind")
    }
    assert report["path"] == str(folder)
    first, second, _ = report["images"]
    assert first.items() >= {"name": "0.png", "width": 40, "height": 32, "has_mask": True}.items()
    assert (first["caption"], second["caption"]) == ("a {} on a beach", None)
    assert report["errors"] == []
    assert [each["name"] for each in report["warnings"]] == ["0.png", "1.png", "2.png"]
    assert "will be enlarged to the 64" in report["warnings"][0]["reason"]


def test_check_shows_a_table(dti: Dti, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "notes [red].gif").write_text("GIF89a")
    monkeypatch.setattr(bundles.results, "width", 200)
    result = dti("bundle", "check", folder, "--resolution", "16")
    assert result.exit_code == 2
    for text in ("40 x 32", "a {} on a beach", "[template]", "notes [red].gif", "refused: a GIF"):
        assert text in result.stdout
    assert "1 bundle checked, 1 refused" in result.stderr


def test_check_continues_after_a_refused_bundle(dti: Dti, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"hello")
    result = dti("bundle", "check", tmp_path / "broken.zip", folder, "--json")
    assert result.exit_code == 2
    broken, good = json.loads(result.stdout)["bundles"]
    assert "a damaged zip file" in broken["errors"][0]["reason"]
    assert len(good["images"]) == 3


def test_check_takes_a_folder_of_bundles_as_training_does(
    dti: Dti, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "rex")
    result = dti("bundle", "check", tmp_path / "all", "--json")
    assert result.exit_code == 0
    (bundle,) = json.loads(result.stdout)["bundles"]
    assert bundle["path"] == str(tmp_path / "all" / "rex")


# preview


def test_preview_shows_crops_and_dims_masked_areas(dti: Dti, folder: Path, tmp_path: Path) -> None:
    bright = Image.new("RGB", (40, 32), "white")
    bright.save(folder / "0.png")
    output = tmp_path / "sheets" / "rex.png"
    result = dti("bundle", "preview", folder, "--resolution", "16", "-o", output)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    sheet = Image.open(output).convert("RGB")
    left, right = sheet.getpixel((20, 100)), sheet.getpixel((200, 100))  # of the first crop
    assert left == (255, 255, 255)
    assert isinstance(right, tuple)
    assert max(right) < 170


def test_preview_of_a_refused_bundle_says_why_and_writes_nothing(
    dti: Dti, folder: Path, tmp_path: Path
) -> None:
    (folder / "3.png").write_bytes(b"hello")
    result = dti("bundle", "preview", folder, "-o", tmp_path / "rex.png")
    assert result.exit_code == 2
    assert "'3.png': its content is not JPEG" in result.stderr
    assert not (tmp_path / "rex.png").exists()


def test_a_preview_shows_one_bundle(dti: Dti, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "all" / "rex")
    options = ["--resolution", "16", "-o", tmp_path / "rex.png"]
    assert dti("bundle", "preview", tmp_path / "all", *options).exit_code == 0
    shutil.copytree(folder, tmp_path / "all" / "tom")
    result = dti("bundle", "preview", tmp_path / "all", *options)
    assert result.exit_code == 2
    assert "2 bundles are there" in result.stderr


# train


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "gztar"])
def test_train_takes_every_form_and_does_as_bundle_json_says(
    dti: Dti, folder: Path, form: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = folder
    if form != "folder":
        path = Path(shutil.make_archive(str(tmp_path / "packed"), form, tmp_path, folder.name))
    options = ["--recipe", "sd", *SHORT[2:], "--model", tiny_checkpoint, "-o", tmp_path / "out"]
    result = dti("train", path, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out' / 'cust-7.safetensors'}\n"
    manifest = Artifact.load(tmp_path / "out" / "cust-7.safetensors").manifest
    assert manifest.placeholder == "<rex>"
    assert manifest.training
    assert manifest.training.initializer == "dog"
    assert manifest.training.config.captions == "person"
    assert list(manifest.training.images) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("options", "family"),
    [(["--set", "captions=style"], "style"), (["--recipe", "miniature"], "miniature")],
)
def test_captions_of_the_command_line_and_of_the_miniature_go_before_the_kind(
    dti: Dti, folder: Path, options: list[str], family: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    options = [*options, *SHORT[2:], "--model", str(tiny_checkpoint), "-o", str(tmp_path)]
    assert dti("train", folder, "--recipe", "sd", *options).exit_code == 0
    training = Artifact.load(tmp_path / "cust-7.safetensors").manifest.training
    assert training
    assert training.config.captions == family


def test_train_warns_and_names_everything_that_is_refused(
    dti: Dti, folder: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    broken = tmp_path / "broken.zip"
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    shutil.copytree(folder, tmp_path / "tom")
    (tmp_path / "tom" / "bundle.json").unlink()
    (tmp_path / "tom" / "2.png").unlink()
    (tmp_path / "tom" / "mask.png").unlink()
    broken.write_bytes(buffer.getvalue())
    options = ["-i", "dog", *SHORT, "--model", tiny_checkpoint, "-o", tmp_path / "out"]
    result = dti("train", broken, tmp_path / "tom", *options)
    assert result.exit_code == 1
    assert "failed: broken: " in result.stderr
    assert "a damaged zip file" in result.stderr
    assert "warning: tom: 2 of the usual 3 to 6 images" in result.stderr
    assert result.stdout == f"{tmp_path / 'out' / 'tom.safetensors'}\n"


def test_training_in_the_folder_of_the_images_works_twice_and_is_reported(
    dti: Dti, folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for _ in range(2):
        result = dti("train", ".", *SHORT, "--model", tiny_checkpoint, "--validation-images", "1")
        assert result.exit_code == 0, result.stderr
        assert result.stdout == "tokens/cust-7.safetensors\n"
    manifest = Artifact.load(Path("tokens/cust-7.safetensors")).manifest
    assert manifest.training
    assert list(manifest.training.images) == ["0.png", "1.png", "2.png"]
    assert dti("bundle", "check", ".").exit_code == 0
    for given in (".", "tokens/", "tokens/run.jsonl"):
        result = dti("report", given)
        assert result.stdout == "tokens/report.html\n", result.stderr


def test_a_caption_beside_an_image_is_trained_on_with_the_token_for_the_class_word(
    dti: Dti, folder: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (folder / "bundle.json").unlink()
    (folder / "1.txt").write_text("a dog on a beach")
    shown = json.loads(dti("bundle", "check", folder, "--json").stdout)["bundles"][0]
    assert shown["images"][1]["caption"] is None  # nothing has said the class word yet
    reasons = [each["reason"] for each in shown["warnings"]]
    assert any("1 captions do not name the subject" in reason for reason in reasons)
    result = dti(
        *("train", folder, "-i", "dog", *SHORT, "--model", tiny_checkpoint),
        *("-o", tmp_path / "out", "--validation-images", "0"),
    )
    assert result.exit_code == 0, result.stderr
    assert "do not name the subject" not in result.stderr


def test_a_name_that_the_terminal_cannot_show_is_escaped(folder: Path) -> None:
    named = folder.rename(folder.with_name("🐶 Hünd"))
    result = subprocess.run(
        [sys.executable, "-m", "dti_engine", "bundle", "check", str(named), "--resolution", "16"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert b"\\U0001f436 H\\xfcnd" in result.stdout
