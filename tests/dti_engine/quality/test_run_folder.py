"""Results of validation are kept in the run's folder, and the best of a subject's tokens wins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import Quality, ValidationImage
from dti_engine.backbones.interface import Backbone
from dti_engine.images.png import read_settings
from dti_engine.quality.run_folder import RunFolder
from dti_engine.quality.validation import TokenValidation
from dti_engine.recipes import miniature_constant
from dti_engine.text.encoder import vocabulary_magnitude, vocabulary_norm_range

ENCODER = "text_encoder"


def make_validation(score: float | None) -> TokenValidation:
    shown = ValidationImage(prompt="a <rex>", seed=0, subject_score=score, prompt_score=score)
    scorer = None if score is None else "somebody"
    quality = Quality(scorer=scorer, images=(shown,), subject_score=score, prompt_score=score)
    level = 0 if score is None else round(255 * score)
    return TokenValidation(quality, [Image.new("RGB", (8, 8), (level,) * 3)])


@pytest.fixture
def make(tiny_backbone: Backbone, artifact_of: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """make(steps, times=1) -> a token after so many steps, `times` m* long."""
    magnitude = vocabulary_magnitude(tiny_backbone.text_encoders[ENCODER])

    def make(steps: int, times: float = 1.0, **facts: object) -> Artifact:
        direction = torch.nn.functional.normalize(
            torch.randn(1, 32, generator=torch.Generator().manual_seed(steps)), dim=-1
        )
        facts = {
            "metrics": {"prior_angle_rad": 1.0, "fixed_loss": 0.1},
            "first_fixed_loss": 0.2,
            **facts,
        }
        return artifact_of({ENCODER: times * magnitude * direction}, steps_done=steps, **facts)

    return make


def test_the_best_of_the_kept_steps_becomes_the_token_and_the_last_one_is_kept(
    make: Callable[..., Artifact], tmp_path: Path
) -> None:
    folder, (early, middle, last) = RunFolder(tmp_path), map(make, (10, 20, 30))
    last.save(folder.token("rex"))
    winner = folder.save_validation(
        "rex",
        [
            (early, make_validation(0.3)),
            (middle, make_validation(0.8)),
            (last, make_validation(0.7)),
        ],
    )
    token = Artifact.load(folder.token("rex"))
    assert token.manifest == winner.manifest
    assert token.manifest.training.steps_done == 20
    assert token.manifest.training.stop_reason == "chosen"
    assert token.manifest.training.quality == make_validation(0.8).quality
    assert torch.equal(token.token.embeddings[ENCODER], middle.token.embeddings[ENCODER])
    saved = Artifact.load(folder.snapshot("rex", 30))
    assert torch.equal(saved.token.embeddings[ENCODER], last.token.embeddings[ENCODER])
    with Image.open(folder.image("rex", 0)) as image:
        assert image.getpixel((0, 0)) == (204, 204, 204)
    assert read_settings(folder.image("rex", 0)) == {"prompt": "a <rex>", "seed": 0, "step": 20}


@pytest.mark.parametrize("scores", [(0.7, 0.7), (None, None), (0.2, 0.7)])
def test_the_last_token_wins_unless_another_is_better(
    make: Callable[..., Artifact], tmp_path: Path, scores: tuple[float | None, float | None]
) -> None:
    folder, (early, last) = RunFolder(tmp_path), map(make, (10, 30))
    winner = folder.save_validation(
        "rex", [(early, make_validation(scores[0])), (last, make_validation(scores[1]))]
    )
    assert winner.manifest.training.steps_done == 30
    assert winner.manifest.training.stop_reason == "budget"
    assert not folder.snapshot("rex", 30).exists()


def test_kept_tokens_are_found_by_steps(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.snapshots("rex") == []
    for name, step in (("rex", 100), ("rex", 20), ("tom", 3)):
        folder.snapshot(name, step).parent.mkdir(parents=True, exist_ok=True)
        folder.snapshot(name, step).touch()
    folder.snapshot("rex", 20).with_name("notes.safetensors").touch()
    assert folder.snapshots("rex") == [folder.snapshot("rex", 20), folder.snapshot("rex", 100)]


def test_angles_are_compared_with_those_of_the_same_config_alone(
    make: Callable[..., Artifact], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    turned = {"prior_angle_rad": 0.2, "fixed_loss": 0.1}
    artifacts = {
        f"{i}": folder.save_validation(f"{i}", [(make(10 + i), make_validation(0.5))])
        for i in range(8)
    }
    odd = folder.save_validation("odd", [(make(30, metrics=turned), make_validation(0.5))])
    found = folder.flag({**artifacts, "odd": odd}, tiny_backbone)
    assert "turned by 11" in found["odd"].manifest.training.quality.flags[0]
    others = miniature_constant().changed(lr=0.001)
    apart = folder.save_validation(
        "odd", [(make(30, metrics=turned, config=others), make_validation(0.5))]
    )
    found = folder.flag({**artifacts, "odd": apart}, tiny_backbone)
    assert found["odd"].manifest.training.quality.flags == ()


def test_validated_tokens_are_found_in_the_folder_for_one_model(
    make: Callable[..., Artifact], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    best = folder.save_validation("rex", [(make(10), make_validation(0.5))])
    make(10).save(folder.token("unvalidated"))
    folder.token("damaged").write_bytes(b"no token")
    assert list(folder.validated(best.manifest.model_fingerprint)) == ["rex"]
    assert folder.validated("b" * 64) == {}


def test_flags_are_written_into_the_token_and_taken_out_again(
    make: Callable[..., Artifact], tiny_backbone: Backbone, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    artifacts = {
        "rex": folder.save_validation("rex", [(make(10), make_validation(0.5))]),
        "long": folder.save_validation("long", [(make(20, times=3.0), make_validation(0.5))]),
    }
    folder.flag(artifacts, tiny_backbone)
    flagged = Artifact.load(folder.token("long"))
    assert "its length is" in flagged.manifest.training.quality.flags[0]
    assert Artifact.load(folder.token("rex")).manifest.training.quality.flags == ()
    before = folder.token("long").stat().st_mtime_ns
    folder.flag({"rex": artifacts["rex"], "long": flagged}, tiny_backbone)
    assert folder.token("long").stat().st_mtime_ns == before  # nothing new, nothing written
    outdated = flagged.manifest.training.quality.model_copy(update={"flags": ("something",)})
    changed = replace(flagged, manifest=flagged.manifest.with_origin(quality=outdated))
    again = folder.flag({"long": changed}, tiny_backbone)["long"].manifest.training.quality
    assert again == flagged.manifest.training.quality


def test_the_band_of_lengths_holds_99_percent_of_the_words(tiny_backbone: Backbone) -> None:
    encoder = tiny_backbone.text_encoders[ENCODER]
    low, high = vocabulary_norm_range(encoder)
    norms = encoder.vocabulary().norm(dim=-1)
    share = ((norms >= low) & (norms <= high)).float().mean()
    assert share == pytest.approx(0.99, abs=0.01)
