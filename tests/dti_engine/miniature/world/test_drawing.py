"""Scenes become pictures, and what differs in a scene differs in its picture."""

import random
from dataclasses import replace

import numpy as np
import pytest

from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import Scene, example, portrait
from dti_engine.miniature.world.vocabulary import (
    ACCESSORIES,
    BACKGROUNDS,
    KINDS,
    MARKS,
    STYLES,
    Look,
)

LOOK = Look("dog", "red", "blue", "striped")


def pixels(scene: Scene) -> np.ndarray:
    return np.asarray(draw(scene)).astype(int)


def scene(look: Look = LOOK, accessory: str = "none") -> Scene:
    return portrait(look, random.Random(1), background="beach", accessory=accessory)


def test_an_image_is_small_and_in_colour() -> None:
    image = draw(scene())

    assert (image.mode, image.size) == ("RGB", (64, 64))


def test_the_same_scene_gives_the_same_pixels() -> None:
    for each in map(example, range(30)):
        assert draw(each.scene).tobytes() == draw(each.scene).tobytes()


@pytest.mark.parametrize(
    ("field", "values"), [("style", STYLES), ("background", BACKGROUNDS), ("jitter", (0.0, 0.9))]
)
def test_scenes_differ_where_they_should(field: str, values: tuple[str, ...]) -> None:
    drawn = [pixels(replace(scene(), **{field: value})) for value in values]

    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).mean() > 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_accessory_and_mark_can_be_seen_on_every_kind(kind: str) -> None:
    worn = [pixels(scene(replace(LOOK, kind=kind), accessory)) for accessory in ACCESSORIES]
    marked = [pixels(scene(replace(LOOK, kind=kind, mark=mark))) for mark in MARKS]

    for drawn in (worn, marked):
        for i, one in enumerate(drawn):
            for other in drawn[:i]:
                assert (np.abs(one - other).max(axis=-1) > 60).sum() >= 8
