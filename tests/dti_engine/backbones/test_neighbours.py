"""An image does not depend on those beside it, whatever the family and the dtype."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.generation.denoiser import (
    Denoiser,
    DenoisingState,
    ImageRequest,
    begin,
    decode,
    to_image,
)
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from dti_engine.text.tokens import LearnedToken

STEPS = 5

# Of one length, as batches of SANA's prompts are as long as the longest.
PROMPTS = (
    "a <rex> in the snow",
    "a <rex> on the beach",
    "a red <rex> and cat",
    "one <rex> by my hat",
)

TOLERANCE = {torch.float32: 1, torch.bfloat16: 4}
"""Levels of 255 that the number of others may change, by rounding."""


@dataclass(frozen=True)
class Beside:
    """When a neighbour is there, in steps of the image, and how many rows it takes."""

    joins: int
    leaves: int
    guided: bool


@pytest.fixture(
    scope="module", params=["make_checkpoint", "make_sdxl_checkpoint", "make_sana_checkpoint"]
)
def weights(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)()


@pytest.fixture(scope="module", params=TOLERANCE, ids=str)
def backbone(request: pytest.FixtureRequest, weights: Path) -> Backbone:
    return load_backbone(weights, dtype=request.param)


def order(backbone: Backbone, rng: random.Random, guided: bool = True) -> ImageRequest:
    """Another one each time, in everything."""
    rows = {
        name: torch.tensor([[rng.gauss(0, 0.1) for _ in range(encoder.dim)]])
        for name, encoder in backbone.text_encoders.items()
    }
    guidance = rng.uniform(2, 9) if guided else 1.0
    tokens = {"<rex>": LearnedToken("<rex>", rows)}
    return ImageRequest(rng.choice(PROMPTS), rng.getrandbits(31), tokens, guidance=guidance)


def start(backbone: Backbone, request: ImageRequest, steps: int) -> DenoisingState:
    sampler = LinearScheduler.of(backbone.new_scheduler(), steps)
    side = backbone.image_size
    (begun,) = begin(backbone, PromptCache(backbone), [request], sampler, (side, side))
    return begun


def generate(
    backbone: Backbone, request: ImageRequest, besides: Sequence[Beside] = (), group: int = 0
) -> Any:
    """Levels of an image beside neighbours whose requests, steps and places are the crowd's."""
    rng, denoiser = random.Random(group), Denoiser(backbone)
    state, others = start(backbone, request, STEPS), list[DenoisingState]()
    for each in besides:
        steps = rng.randint(2 * STEPS, 30)
        others.append(start(backbone, order(backbone, rng, each.guided), steps))
        for _ in range(rng.randint(0, STEPS)):
            denoiser.step(others[-1:])
    place = rng.randint(0, len(others))
    for step in range(STEPS):
        there = [
            one
            for one, each in zip(others, besides, strict=True)
            if each.joins <= step < each.leaves
        ]
        denoiser.step([*there[:place], state, *there[place:]])
    (pixels,) = decode(backbone, [state])
    return np.asarray(to_image(pixels)).astype(int)


@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_the_same_in_any_crowd_of_a_size_and_nearly_the_same_alone(
    backbone: Backbone, seed: int
) -> None:
    rng = random.Random(f"layout {seed}")
    request = order(backbone, rng, guided=seed != 1)
    besides = [
        Beside(rng.randrange(STEPS), rng.randint(1, STEPS), rng.random() < 0.6) for _ in range(5)
    ]
    first, second = (generate(backbone, request, besides, group) for group in (1, 2))
    assert np.array_equal(first, second)
    alone = generate(backbone, request)
    assert abs(first - alone).max() <= TOLERANCE[backbone.dtype]
    other = generate(backbone, order(backbone, rng))
    assert abs(other - alone).max() > 10 * TOLERANCE[backbone.dtype]
