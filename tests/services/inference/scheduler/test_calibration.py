"""Calibration of the batch size by measured throughput."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from services.inference.scheduler.calibration import calibrate_batch_size, choose_batch_size

from .harness import InstrumentedModel


@pytest.mark.parametrize(
    ("rates", "best", "num_measured"),
    [
        ([1.0, 1.9, 3.5, 3.7, 9.0], 4, 4),  # a GPU that is full with 4
        ([1.0, 1.05, 9.0], 1, 2),  # a processor
        ([1.0, 0.5], 1, 2),
        ([1.0, 2.0, 4.0], 4, 3),  # all that fit
        ([], 1, 0),
    ],
)
def test_batches_grow_while_their_throughput_does(
    rates: list[float], best: int, num_measured: int
) -> None:
    seen: list[float] = []

    def found() -> Iterator[tuple[int, float]]:
        for number, rate in enumerate(rates):
            seen.append(rate)
            yield 2**number, rate

    assert choose_batch_size(found()) == best
    assert len(seen) == num_measured


def test_a_batch_that_does_not_fit_into_memory_is_not_chosen(tiny_backbone: Backbone) -> None:
    model: Any = InstrumentedModel(tiny_backbone)

    def tight(noisy: Tensor, conditioning: Conditioning) -> None:
        if len(noisy) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.before = tight
    assert calibrate_batch_size(model, 8) <= 2
    assert {2} <= set(model.calls) <= {2, 4, 8}
