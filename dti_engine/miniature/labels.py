"""The labels of a scene: one class per question about an image or a caption.

Questions about a place that is empty have no answer (`NO_ANSWER`), except the question for its
kind, whose answer is `none`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dti_engine.miniature.world.scenes import Scene
from dti_engine.miniature.world.vocabulary import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MARKS,
    PATTERNS,
    PLACES,
    PROPORTIONS,
    STYLES,
)

NO_ANSWER = -100
_OF_A_FIGURE: dict[str, tuple[str, ...]] = {
    "kind": ("none", *KINDS),
    "primary": tuple(COLOURS),
    "secondary": tuple(COLOURS),
    "pattern": PATTERNS,
    "proportions": PROPORTIONS,
    "mark": MARKS,
    "accessory": ACCESSORIES,
}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "style": STYLES,
    **{f"{place}.{name}": values for place in PLACES for name, values in _OF_A_FIGURE.items()},
}


def labels(scene: Scene) -> list[int]:
    """Return the class of every question in QUESTIONS, in order."""
    answers = {"background": scene.background, "style": scene.style}
    answers |= {f"{place}.kind": "none" for place in PLACES}
    for figure in scene.figures:
        for name in _OF_A_FIGURE:
            value = figure.accessory if name == "accessory" else getattr(figure.look, name)
            answers[f"{figure.place}.{name}"] = value
    return [
        QUESTIONS[question].index(answers[question]) if question in answers else NO_ANSWER
        for question in QUESTIONS
    ]


class Answers(nn.Module):
    """A linear layer that answers every question from a feature vector (B, d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in QUESTIONS.values()]
        self.linear = nn.Linear(dim, sum(self.sizes))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the logits per question, each (B, number of classes)."""
        return list(self.linear(features).split(self.sizes, dim=-1))


@dataclass(frozen=True, slots=True)
class Marking:
    """The summed loss of a batch, and the accuracy per question (NaN where it was not asked)."""

    loss: Tensor
    right: dict[str, float]


def mark(logits: list[Tensor], answers: Tensor) -> Marking:
    """Return the cross-entropy against `answers` (B, questions), and the accuracy per question."""
    loss = torch.zeros((), device=answers.device)
    right: dict[str, float] = {}
    for column, (question, scores) in enumerate(zip(QUESTIONS, logits, strict=True)):
        asked = answers[:, column] != NO_ANSWER
        if asked.any():
            loss = loss + F.cross_entropy(
                scores.float(), answers[:, column], ignore_index=NO_ANSWER
            )
            hits = scores.detach().argmax(-1) == answers[:, column]
            right[question] = float(hits[asked].float().mean())
        else:
            right[question] = float("nan")
    return Marking(loss, right)
