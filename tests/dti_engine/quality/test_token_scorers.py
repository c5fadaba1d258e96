"""Scorers: the requested one scores images of any model, and no other is used."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli.app import app
from dti_engine.errors import ModelLoadError
from dti_engine.quality import token_scorers
from dti_engine.quality.token_scorers import PaperTokenScorer, find_scorer, validation_prompts
from dti_engine.scorers.siglip import Siglip, scored_text


def _noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(40, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_scores_lie_in_0_to_1_and_the_same_image_is_most_like_itself(tiny_scorers: Path) -> None:
    scorer = PaperTokenScorer.load(str(tiny_scorers))
    images = [_noise(seed) for seed in range(4)]
    found = scorer.score(images, validation_prompts("object", 4), images[:1], "dog")
    assert all(0 <= score <= 1 for both in found for score in both)
    assert found[0][0] == pytest.approx(1, abs=1e-5)
    assert found[0][0] == max(subject for subject, _ in found)


def test_a_negative_cosine_counts_as_0(tiny_scorers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dti_engine.quality.token_scorers.likeness", lambda *_: [-0.25])
    scorer = PaperTokenScorer.load(str(tiny_scorers))
    ((subject, _),) = scorer.score([_noise(0)], validation_prompts("object", 1), [_noise(1)], "dog")
    assert subject == 0


def test_the_prompt_is_scored_with_the_class_noun(tiny_scorers: Path) -> None:
    scorer, image = PaperTokenScorer.load(str(tiny_scorers)), _noise(0)
    prompts = validation_prompts("object", 1)
    ((_, prompt),) = scorer.score([image], prompts, [image], "toy bear")
    siglip = Siglip.load(tiny_scorers / "siglip-base-patch16-512")
    (expected,) = siglip.scores([image], ["a photo of a toy bear on a beach."])
    assert prompt == expected.probability


def test_no_scorer_is_used_unless_requested(tiny_checkpoint: Path, tiny_scorers: Path) -> None:
    assert find_scorer(tiny_checkpoint) is None
    assert find_scorer(tiny_checkpoint, str(tiny_scorers))
    with pytest.raises(ModelLoadError, match="there is no scorer at"):
        find_scorer(tiny_checkpoint, str(tiny_scorers / "none"))


def test_dti_train_validates_with_the_requested_scorer(
    tiny_checkpoint: Path, tiny_scorers: Path, tmp_path: Path
) -> None:
    (tmp_path / "rex").mkdir()
    for seed in range(2):
        _noise(seed).save(tmp_path / "rex" / f"{seed}.png")
    prompts = ["train", tmp_path / "rex", "--initializer", "dog", "--output", tmp_path / "tokens"]
    prompts += ["--model", tiny_checkpoint, "--scorer", tiny_scorers, "--steps", 2]
    prompts += ["--set", "resolution=16", "--set", "batch_size=1", "--validation-images", 2]
    result = CliRunner().invoke(app, [str(word) for word in prompts])
    assert result.exit_code == 0, result.output
    training = Artifact.load(tmp_path / "tokens" / "rex.safetensors").manifest.training
    assert training
    assert training.quality
    assert training.quality.scorer == "DINOv2 and SigLIP"
    assert 0 <= training.quality.prompt_score <= 1
    assert training.quality.word_subject_score is not None


@pytest.mark.parametrize(
    ("extra_fields", "noun"), [({}, "dog"), ({"class_noun": "toy dog"}, "toy dog")]
)
def test_dti_train_scores_trials_with_the_class_noun_of_the_bundle(
    extra_fields: dict[str, str],
    noun: str,
    tiny_checkpoint: Path,
    tiny_scorers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts: set[str] = set()

    def noting(template: str, class_noun: str) -> str:
        prompts.add(class_noun)
        return scored_text(template, class_noun)

    monkeypatch.setattr(token_scorers, "scored_text", noting)
    (tmp_path / "rex").mkdir()
    _noise(0).save(tmp_path / "rex" / "0.png")
    (tmp_path / "rex" / "bundle.json").write_text(json.dumps({"initializer": "dog"} | extra_fields))
    options = ["--model", tiny_checkpoint, "--scorer", tiny_scorers, "--steps", 1]
    options += [
        "--set",
        "resolution=16",
        "--set",
        "batch_size=1",
        "--validation-images",
        1,
        "--output",
        tmp_path / "out",
    ]
    words = ["train", tmp_path / "rex", *options]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert prompts == {noun}
