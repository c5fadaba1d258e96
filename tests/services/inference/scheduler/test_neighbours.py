"""An image of the miniature does not depend on those that share its calls, in either dtype."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Conditioning
from dti_engine.text.tokens import LearnedToken
from services.inference.scheduler.request_queue import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings

from .harness import InstrumentedModel, Recorder, make_request

pytestmark = pytest.mark.slow

STEPS = 6
BEFORE = 4  # calls before the image joins

MAX_LEVELS = {torch.float32: 1, torch.bfloat16: 4}
MEAN_LEVELS = {torch.float32: 0.01, torch.bfloat16: 0.25}
"""Of 255: what rounding may change where it is generated beside another number of images."""

PROMPTS = ("a photo of a <rex>", "a <rex> on a beach", "a cartoon of a <rex> wearing a hat")


@dataclass(frozen=True)
class Beside:
    """When a neighbour is there, in steps of the image; None: it outlasts it."""

    joins: int
    leaves: int | None
    guided: bool


@pytest.fixture(scope="module", params=MAX_LEVELS, ids=str)
def model(request: pytest.FixtureRequest) -> Any:
    return InstrumentedModel(load_backbone("miniature", dtype=request.param))


def make_random_request(
    model: Any, rng: random.Random, steps: int, guided: bool = True
) -> tuple[ScheduledRequest, Recorder]:
    """Another one each time, in everything."""
    rows = {
        name: torch.tensor([[rng.gauss(0, 0.05) for _ in range(encoder.dim)]])
        for name, encoder in model.text_encoders.items()
    }
    return make_request(
        rng.choice(PROMPTS),
        tenant=f"tenant {rng.random()}",
        seed=rng.getrandbits(31),
        tokens={"<rex>": LearnedToken("<rex>", rows)},
        guidance=rng.uniform(2, 9) if guided else 1.0,
        steps=steps,
        size=(64, 64),
    )


def generate(model: Any, subject: int, besides: Sequence[Beside] = (), group: int = 0) -> Any:
    """Return the levels of an image, and the rows of each call that it had part in.

    The group decides the requests and steps of its neighbours.
    """
    timed, recorder = make_random_request(model, random.Random(f"subject {subject}"), STEPS)
    rng = random.Random(f"crowd {group}")
    joining: dict[int, list[ScheduledRequest]] = defaultdict(list)
    for number, each in enumerate(besides):
        # The first begins long before, so that there are calls that the others can join.
        ahead = BEFORE if number == 0 else rng.randint(0, BEFORE - 1) if not each.joins else 0
        more = rng.randint(1, 5) if each.leaves is None else 0
        steps = ahead + (each.leaves or STEPS) - each.joins + more
        other, _ = make_random_request(model, rng, steps, each.guided)
        joining[BEFORE + each.joins - ahead].append(other)
    first = BEFORE if besides else 0
    joining[first].insert(group % 2 * len(joining[first]), timed)
    model.calls.clear()
    scheduler = BatchScheduler(model, BatchSchedulerSettings(max_batch_size=16))

    def join(noisy: Tensor, conditioning: Conditioning) -> None:
        if them := joining.pop(len(model.calls), None):
            scheduler.submit(them)

    model.before = join
    scheduler.submit(joining.pop(0))
    scheduler.start()
    image = recorder.image(120)
    scheduler.stop()
    return np.asarray(image).astype(int), model.calls[first : first + STEPS]


@pytest.mark.parametrize("subject", range(2))
def test_an_image_is_the_same_in_any_crowd_of_a_size_and_nearly_the_same_alone(
    model: Any, subject: int
) -> None:
    rng = random.Random(f"layout {subject}")
    besides = [
        Beside(0, None, guided=True),
        Beside(0, rng.randint(1, STEPS - 1), guided=True),
        Beside(0, None, guided=False),
        Beside(rng.randint(1, STEPS - 1), None, guided=rng.random() < 0.5),
    ]
    one, rows = generate(model, subject, besides, group=1)
    other, same_rows = generate(model, subject, besides, group=2)
    assert rows == same_rows
    assert len(set(rows)) > 1
    assert np.array_equal(one, other)
    alone, pair = generate(model, subject)
    assert set(pair) == {2}
    assert abs(one - alone).max() <= MAX_LEVELS[model.dtype]
    assert abs(one - alone).mean() <= MEAN_LEVELS[model.dtype]
    assert abs(one - generate(model, subject + 9)[0]).max() > 50
