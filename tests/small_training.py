"""A training of tiny subjects that takes seconds, and its results."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dti_engine.config import TrainConfig
from dti_engine.training.loop import Subject, TrainingResult

ENCODER = "text_encoder"
CONFIG = TrainConfig(steps=20, batch_size=2, resolution=16, lr=0.04)
SHORT = CONFIG.changed(steps=4)
MakeSubject = Callable[..., Subject]
LoadParts = Callable[[torch.dtype], Any]


def learned(result: TrainingResult) -> Tensor:
    """Return the embedding of a subject that was learned."""
    assert result.artifact is not None, result.error
    return result.artifact.token.embeddings[ENCODER]


def by_id(results: list[TrainingResult]) -> dict[str, TrainingResult]:
    return {result.subject.id: result for result in results}
