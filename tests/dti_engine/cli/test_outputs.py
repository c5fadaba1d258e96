"""No command writes over its inputs, or over what another subject, token or program has left."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.backbones.interface import Backbone
from dti_engine.cli.app import app
from dti_engine.images.png import read_settings
from dti_engine.text.tokens import LearnedToken


def dti(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def token(tmp_path: Path, tiny_backbone: Backbone) -> Callable[[str, int], Path]:
    """token(name, seed) -> the file of a token of the tiny model, NAME.safetensors."""

    def make(name: str, seed: int) -> Path:
        dim = tiny_backbone.text_encoders["text_encoder"].dim
        rows = torch.randn(1, dim, generator=torch.Generator().manual_seed(seed))
        origin = ImportedOrigin(format_name="diffusers", files={})
        made = LearnedToken("<rex>", {"text_encoder": rows})
        path = tmp_path / f"{name}.safetensors"
        Artifact.of(
            made,
            model=tiny_backbone.name,
            fingerprint=tiny_backbone.fingerprint,
            origin=origin,
        ).save(path)
        return path

    return make


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "rex").mkdir(parents=True)
    for i in range(3):
        Image.effect_noise((32, 32), 50 + i).convert("RGB").save(folder / "rex" / f"{i}.png")
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export rex.safetensors -o rex.safetensors", "is the input"),
        ("export rex.safetensors -o ./sub/../rex.safetensors --force", "is the input"),
        ("export rex.safetensors -o tom.safetensors", "--force"),
        ("blend rex.safetensors tom.safetensors --save tom.safetensors --force", "is the input"),
        ("import foreign.safetensors -o foreign.safetensors --model MODEL", "is the input"),
        ("import foreign.safetensors -o tom.safetensors --model MODEL", "--force"),
        ("bundle preview photos/rex -o photos/rex/sheet.png", "outside of it"),
        ("bundle preview photos/rex -o holiday.png", "other content"),
        ("train photos -i dog -o photos", "is the input"),
        ("report tokens -o rex.safetensors", "other content"),
        ("demo -o site", "other content"),
    ],
)
def test_an_output_that_would_cost_something_is_refused_before_anything_is_written(
    command: str,
    message: str,
    token: Callable[[str, int], Path],
    photos: Path,
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token("rex", 1)
    token("tom", 2)
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<title>my own page</title>")
    safetensors.torch.save_file({"<x>": torch.ones(1, 32)}, tmp_path / "foreign.safetensors")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    result = dti(*command.replace("MODEL", str(tiny_checkpoint)).split())
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr
    assert contents(tmp_path) == before
    assert not (tmp_path / "photos" / "tokens").exists()


def test_the_same_export_again_is_fine_and_another_one_takes_force(
    token: Callable[[str, int], Path], tmp_path: Path
) -> None:
    first, second, output = token("a", 1), token("b", 2), tmp_path / "emb" / "rex.safetensors"
    for arguments in ([first], [first], [second, "--force"]):
        assert dti("export", *arguments, "-o", output).exit_code == 0
    assert dti("export", first, "-o", output).exit_code == 2


def test_an_image_of_another_token_gets_another_name_and_the_same_one_its_own(
    token: Callable[[str, int], Path], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    def generate(file: Path, *more: object) -> Path:
        shared = ["--steps", 1, "--model", tiny_checkpoint, "-o", tmp_path / "out", *more]
        result = dti("generate", "a <rex>", "--token", file, *shared)
        assert result.exit_code == 0, result.stderr
        return Path(result.stdout.strip())

    first, second = token("a", 1), token("b", 2)
    paths = [generate(first), generate(second), generate(first), generate(first, "--guidance", 2)]
    names = ["a-rex-seed0.png", "a-rex-seed0-2.png", "a-rex-seed0.png", "a-rex-seed0-3.png"]
    assert [path.name for path in paths] == names
    digests = [read_settings(path)["tokens"]["<rex>"]["sha256"] for path in paths]
    assert digests[0] == digests[2] != digests[1]


def test_an_image_says_its_settings_as_a1111_does(
    token: Callable[[str, int], Path], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    file = token("a", 1)
    options = ["--steps", 1, "--seeds", 7, "--negative-prompt", "a cat", "-o", tmp_path]
    dti("generate", "a <rex>", "--token", file, "--model", tiny_checkpoint, *options)
    with Image.open(tmp_path / "a-rex-seed7.png") as image:
        size = f"{image.width}x{image.height}"
        text: str = image.info["parameters"]
    prompt, negative, fields = text.split("\n")
    assert (prompt, negative) == ("a <rex>", "Negative prompt: a cat")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    assert f"Steps: 1, Sampler: DDIM, CFG scale: 5.0, Seed: 7, Size: {size}, " in fields
    assert f'TI hashes: "rex: {digest}"' in fields
