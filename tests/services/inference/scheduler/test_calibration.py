"""How many images are worth a call."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from services.inference.scheduler.calibration import choose, find_cap

from .waiting import Model


@pytest.mark.parametrize(
    ("rates", "best", "asked"),
    [
        ([1.0, 1.9, 3.5, 3.7, 9.0], 4, 4),  # a GPU that is full with 4
        ([1.0, 1.05, 9.0], 1, 2),  # a processor
        ([1.0, 0.5], 1, 2),
        ([1.0, 2.0, 4.0], 4, 3),  # all that fit
        ([], 1, 0),
    ],
)
def test_more_are_taken_while_they_are_faster(rates: list[float], best: int, asked: int) -> None:
    seen: list[float] = []

    def found() -> Iterator[tuple[int, float]]:
        for number, rate in enumerate(rates):
            seen.append(rate)
            yield 2**number, rate

    assert choose(found()) == best
    assert len(seen) == asked


def test_what_does_not_fit_into_memory_is_not_taken(tiny_backbone: Backbone) -> None:
    model: Any = Model(tiny_backbone)

    def tight(noisy: Tensor, conditioning: Conditioning) -> None:
        if len(noisy) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.before = tight
    assert find_cap(model, 8) <= 2
    assert {2} <= set(model.calls) <= {2, 4, 8}
