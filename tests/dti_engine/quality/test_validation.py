"""Tokens are validated with the same prompts and noise, and scored against their word."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageChops

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import MAX_VALIDATION_IMAGES
from dti_engine.miniature.world.subjects import evaluation_prompts
from dti_engine.miniature.world.subjects import validation_prompts as world_prompts
from dti_engine.quality import validation
from dti_engine.quality.token_scorers import ValidationPrompt, validation_prompts
from dti_engine.quality.validation import TokenValidator, ValidationCandidate
from dti_engine.recipes import sd
from dti_engine.text.encoder import initializer_rows

ENCODER = "text_encoder"
REFERENCE = Image.new("RGB", (16, 16), "grey")


class Darkness:
    """A scorer that prefers dark images and records its arguments."""

    name = "darkness"

    def __init__(self, class_noun: str = "dog") -> None:
        self._class_noun = class_noun
        self.templates: list[list[str]] = []

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        assert list(references) == [REFERENCE]
        assert class_noun == self._class_noun
        self.templates.append([prompt.template for prompt in prompts])
        levels = [sum(each.convert("L").histogram()[:128]) / 256 for each in images]
        return [(level, level / 2) for level in levels]


@pytest.fixture
def candidates(
    tiny_backbone: Backbone, artifact_of: Callable[..., Artifact]
) -> list[ValidationCandidate]:
    rows = initializer_rows(tiny_backbone.text_encoders[ENCODER], "dog")
    turned = torch.roll(rows, 1, dims=-1)
    pair = [artifact_of({ENCODER: each.clone()}, config=sd()) for each in (rows, turned)]
    return [ValidationCandidate(each, [REFERENCE]) for each in pair]


def test_each_candidate_gets_an_image_and_scores_per_prompt(
    tiny_backbone: Backbone, candidates: list[ValidationCandidate]
) -> None:
    validator = TokenValidator(tiny_backbone, Darkness(), num_images=3, steps=2)
    validations = validator.validate(candidates)
    for each in validations:
        quality = each.quality
        assert quality.scorer == "darkness"
        assert len(each.images) == len(quality.images) == 3
        assert [each.seed for each in quality.images] == [0, 1, 2]
        assert quality.images[0].prompt == "a photo of a <rex> on a beach"
        known = [each.subject_score for each in quality.images]
        assert quality.subject_score == pytest.approx(sum(known) / 3)
        assert quality.score == pytest.approx(0.75 * quality.subject_score)
        assert quality.flags == ()


def test_prompts_are_scored_with_the_class_noun(
    tiny_backbone: Backbone, candidates: list[ValidationCandidate]
) -> None:
    """Images with words in the token's place stay those of the initializer."""
    scorer = Darkness("stuffed dog")
    validator = TokenValidator(tiny_backbone, scorer, num_images=2, steps=2)
    validator.validate([replace(candidates[0], class_noun="stuffed dog")])
    assert len(scorer.templates) == 2
    assert {word for _, word in validator._word_images} == {"dog"}


def test_a_token_that_is_its_word_scores_as_its_word(
    tiny_backbone: Backbone, candidates: list[ValidationCandidate]
) -> None:
    same, turned = TokenValidator(tiny_backbone, Darkness(), num_images=2, steps=2).validate(
        candidates
    )
    assert same.quality.subject_score == pytest.approx(same.quality.word_subject_score, abs=0.02)
    assert turned.quality.word_subject_score == same.quality.word_subject_score
    difference = ImageChops.difference(same.images[0], turned.images[0])
    assert difference.getbbox() is not None


def test_validation_does_not_depend_on_the_other_tokens(
    tiny_backbone: Backbone, candidates: list[ValidationCandidate]
) -> None:
    validator = TokenValidator(tiny_backbone, Darkness(), num_images=2, steps=2, batch_size=2)
    both = validator.validate(candidates)
    (alone,) = validator.validate(candidates[1:])
    assert alone.quality == both[1].quality


def test_without_a_scorer_there_are_images_and_no_scores(
    tiny_backbone: Backbone, candidates: list[ValidationCandidate]
) -> None:
    (bare,) = TokenValidator(tiny_backbone, None, num_images=1, steps=1).validate(candidates[:1])
    assert len(bare.images) == 1
    assert bare.quality.scorer is None
    assert bare.quality.score is None
    assert bare.quality.images[0].subject_score is None


@pytest.mark.parametrize("family", ["object", "person", "style", "miniature"])
def test_every_family_has_its_prompts(family: str) -> None:
    found = validation_prompts(family, MAX_VALIDATION_IMAGES)
    assert len(found) == MAX_VALIDATION_IMAGES
    assert all(each.template.count("{}") == 1 for each in found)
    assert validation_prompts(family, 1) == found[:1]


def test_validation_prompts_are_not_the_prompts_of_the_evaluation() -> None:
    templates = {each.template for each in world_prompts()}
    assert len(templates) == MAX_VALIDATION_IMAGES
    assert not templates & {each.template for each in evaluation_prompts()}


def test_images_word_images_are_forgotten_when_they_are_many_and_generated_again(
    tiny_backbone: Backbone, candidates: list[ValidationCandidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = TokenValidator(tiny_backbone, Darkness(), num_images=2, steps=2, batch_size=2)
    (first,) = validator.validate(candidates[:1])
    monkeypatch.setattr(validation, "_MAX_WORD_IMAGES", 1)
    (again,) = validator.validate(candidates[:1])
    assert again.quality == first.quality
