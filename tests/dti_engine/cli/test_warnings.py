"""Commands say what of the given texts and tokens has no effect."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.backbones.interface import Backbone
from dti_engine.cli.app import app
from dti_engine.text.encoder import initializer_rows
from dti_engine.text.tokens import LearnedToken

Generate = Callable[..., Result]


@pytest.fixture
def generate(tmp_path: Path, tiny_backbone: Backbone, tiny_checkpoint: Path) -> Generate:
    """generate(prompt, ...) -> the result of the command, with a token <rex>."""
    encoder = tiny_backbone.text_encoders["text_encoder"]
    token = LearnedToken("<rex>", {"text_encoder": initializer_rows(encoder, "dog")})
    origin = ImportedOrigin(format_name="diffusers", files={})
    facts = {"model": tiny_backbone.name, "fingerprint": tiny_backbone.fingerprint}
    Artifact.of(token, **facts, origin=origin).save(tmp_path / "rex.safetensors")
    shared = ["--token", tmp_path / "rex.safetensors", "--steps", 1, "-o", tmp_path / "images"]

    def run(*arguments: object) -> Result:
        given = ["generate", *arguments, *shared, "--model", tiny_checkpoint]
        return CliRunner().invoke(app, [str(each) for each in given])

    return run


def test_a_token_without_effect_and_a_text_without_end_are_warnings(generate: Generate) -> None:
    result = generate("a rex", "a dog " * 60, "--negative-prompt", "a cat " * 60)
    assert result.exit_code == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert [warning.partition(",")[0] for warning in warnings] == [
        "warning: no prompt mentions <rex>",
        "warning: the negative prompt is too long: text_encoder does not read its last "
        "45 word pieces",
        "warning: the prompt is too long: text_encoder does not read its last 45 word pieces",
    ]


def test_a_prompt_that_is_read_as_a_whole_has_no_warning(generate: Generate) -> None:
    assert "warning:" not in generate("a <rex>").stderr


def test_weights_of_words_are_refused_and_nothing_is_generated(
    generate: Generate, tmp_path: Path
) -> None:
    result = generate("a (<rex>:1.3)")
    assert result.exit_code == 2
    assert "a weight, as A1111 and ComfyUI have" in result.stderr
    assert not (tmp_path / "images").exists()


def test_a_caption_that_is_cut_is_a_warning_of_its_subject(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    (tmp_path / "rex").mkdir()
    images: dict[str, object] = {}
    for i in range(2):
        Image.effect_noise((32, 32), 50 + i).convert("RGB").save(tmp_path / "rex" / f"{i}.png")
        images[f"{i}.png"] = {"caption": "a {} and " + "a " * (100 if i else 1)}
    (tmp_path / "rex" / "bundle.json").write_text(json.dumps({"images": images}))
    options = ["--steps", 1, "--slots", 1, "--validation-images", 0, "--model", tiny_checkpoint]
    options += ["--recipe", "miniature", "--set", "resolution=16", "--set", "batch_size=1"]
    arguments = ["train", tmp_path / "rex", "-i", "dog", "-o", tmp_path / "tokens", *options]
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.stderr
    (warning,) = [line for line in result.stderr.splitlines() if "too long" in line]
    assert warning.startswith("warning: rex: the caption of '1.png' is too long")
    assert "too long" in (tmp_path / "tokens" / "run.jsonl").read_text()
