"""The ceiling shows the subject as prompts ask for it."""

import random

import pytest

from dti_engine.backbones.interface import Backbone
from dti_engine.evaluation.miniature import scene, through_autoencoder
from dti_engine.miniature.scorer import NO_ANSWER, QUESTIONS, labels
from dti_engine.miniature.world.scenes import portrait
from dti_engine.miniature.world.subjects import WorldPrompt, evaluation_prompts, held_out_subjects

LOOK = held_out_subjects("evaluation")[0].look


@pytest.mark.parametrize("prompt", evaluation_prompts(), ids=lambda each: each.template)
def test_a_scene_shows_the_subject_and_all_that_the_prompt_asks_for(prompt: WorldPrompt) -> None:
    answers = dict(zip(QUESTIONS, labels(scene(prompt, LOOK, seed="a")), strict=True))
    shown = {q: QUESTIONS[q][i] for q, i in answers.items() if i != NO_ANSWER}
    assert prompt.asked.items() <= shown.items()
    for attribute in ("kind", "primary", "secondary", "pattern", "proportions", "mark"):
        assert shown[f"{prompt.place}.{attribute}"] == getattr(LOOK, attribute)


def test_scenes_vary_with_the_seed_alone() -> None:
    prompt = evaluation_prompts()[0]
    assert scene(prompt, LOOK, seed="a") == scene(prompt, LOOK, seed="a")
    assert scene(prompt, LOOK, seed="a") != scene(prompt, LOOK, seed="b")


def test_drawings_come_back_from_the_autoencoder_in_the_size_of_the_model(
    evaluation_backbone: Backbone,
) -> None:
    scenes = [portrait(LOOK, random.Random(seed)) for seed in range(3)]
    images = through_autoencoder(evaluation_backbone, scenes)
    assert [(image.mode, image.size) for image in images] == [("RGB", (16, 16))] * 3
