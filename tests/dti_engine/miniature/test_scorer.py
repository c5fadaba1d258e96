"""Readings of images and what they are compared by."""

import random
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image

from dti_engine.miniature.scorer import ScoredImage, Scorer, load_scorer, read, save_scorer
from dti_engine.miniature.training.stages import halve
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import Scene, example, portrait
from dti_engine.miniature.world.vocabulary import BACKGROUNDS, held_out_looks


@pytest.fixture
def scorer() -> Scorer:
    return Scorer().eval().requires_grad_(False)


def test_likeness_is_symmetric_and_a_share(scorer: Scorer) -> None:
    readings = read(scorer, [draw(example(seed).scene) for seed in range(6)])

    for one, other in combinations(readings, 2):
        assert one.likeness(other) == pytest.approx(other.likeness(one))
        assert 0.0 <= one.likeness(other, place="left", other_place="right") <= 1.0


def test_one_look_is_more_like_itself_elsewhere_than_like_another(
    read_perfectly: Callable[[Scene], ScoredImage],
) -> None:
    rng = random.Random(3)
    held_out = held_out_looks()[:12]
    readings = {
        (each_look, background): read_perfectly(portrait(each_look, rng, background=background))
        for each_look in held_out
        for background in BACKGROUNDS[:3]
    }

    for (one, (each_look, _)), (other, (other_look, _)) in combinations(
        zip(readings.values(), readings, strict=True), 2
    ):
        same = each_look == other_look
        assert one.likeness(other) == 1.0 if same else one.likeness(other) < 1.0


def test_likeness_compares_the_given_places(
    read_perfectly: Callable[[Scene], ScoredImage],
) -> None:
    pair = next(e.scene for e in map(example, range(100)) if len(e.scene.figures) == 2)
    left, _ = pair.figures
    alone = read_perfectly(portrait(left.look, random.Random(1)))

    assert alone.likeness(read_perfectly(pair), other_place="left") == 1.0
    assert read_perfectly(pair).likeness(alone, place="left") == 1.0
    assert alone.likeness(read_perfectly(pair), other_place="right") < 1.0


def test_the_prompt_score_is_the_share_of_answered_questions(
    read_perfectly: Callable[[Scene], ScoredImage],
) -> None:
    reading = read_perfectly(portrait(held_out_looks()[0], random.Random(1), background="snow"))
    right = {"background": "snow", "style": "photo"}

    assert reading.shows(right) == 1.0
    assert reading.shows(right | {"left.kind": "dog", "right.kind": "none"}) == 0.75
    assert reading.shows({"background": "beach"}) == 0.0


def test_images_of_any_size_are_read_in_order(scorer: Scorer) -> None:
    image = draw(example(0).scene)
    enlarged = image.resize((256, 256), Image.Resampling.BICUBIC)

    small, large, other = read(scorer, [image, enlarged, draw(example(1).scene)])

    assert read(scorer, []) == []
    torch.testing.assert_close(small.probabilities, large.probabilities, atol=0.02, rtol=0.1)
    assert small.probabilities["style"].sum() == pytest.approx(1.0)
    assert not torch.equal(small.probabilities["style"], other.probabilities["style"])


def test_a_scorer_reads_the_same_from_a_file_of_half_the_size(
    tmp_path: Path, scorer: Scorer
) -> None:
    path = tmp_path / "scorer.safetensors"
    save_scorer(scorer, path)
    images = [draw(example(seed).scene) for seed in range(8)]
    size = path.stat().st_size
    assert load_scorer(path).state_dict().keys() == scorer.state_dict().keys()

    halve(path)

    assert path.stat().st_size < 0.51 * size
    for one, other in zip(read(scorer, images), read(load_scorer(path), images), strict=True):
        torch.testing.assert_close(one.probabilities, other.probabilities, atol=2e-3, rtol=0.0)
