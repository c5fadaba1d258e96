"""The miniature's scorer: reads what an image of the world shows, and compares subjects.

The labels of a scene are one class per question about an image or a caption. Questions about a
place that is empty have no answer (`NO_ANSWER`), except the question for its kind, whose answer is
`none`.

A small image network answers every question. A prompt is followed where the answers match the
attributes that it asks for. The likeness of two subjects is the agreement of the answers about
their looks; questions about background, style and accessory do not count there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dti_engine.miniature.pipeline import to_pixels
from dti_engine.miniature.world.scenery import SIZE
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


LOOK_QUESTIONS = ("kind", "primary", "secondary", "pattern", "proportions", "mark")


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
    )


class Scorer(nn.Module):
    """A network from pixels (B, 3, SIZE, SIZE) in [-1, 1] to logits per question, (B, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _convolution(3, 32, 2),
            _convolution(32, 64, 1),
            _convolution(64, 64, 2),
            _convolution(64, 128, 1),
            _convolution(128, 128, 2),
            _convolution(128, 128, 1),
            nn.Conv2d(128, 48, 1),
            nn.Flatten(),
            nn.Linear(48 * (SIZE // 8) ** 2, 256),
            nn.SiLU(),
            nn.Dropout(0.1),
        )
        self.answers = Answers(256)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return self.answers(self.features(pixels))


def load_scorer(weights: Path) -> Scorer:
    """Load a model's `scorer.safetensors`, in single or in half precision."""
    scorer = Scorer()
    scorer.load_state_dict(load_file(weights))
    return scorer.eval().requires_grad_(False)


def save_scorer(scorer: Scorer, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in scorer.state_dict().items()}, path)


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """The reading of one image: per question, the probability of each answer."""

    probabilities: dict[str, Tensor]

    def answer(self, question: str) -> str:
        """Return the most likely answer, as a word."""
        return QUESTIONS[question][int(self.probabilities[question].argmax())]

    def shows(self, asked: Mapping[str, str]) -> float:
        """Return the share of `asked` (question -> answer, at least one) that the image shows."""
        return fmean(self.answer(question) == answer for question, answer in asked.items())

    def likeness(
        self, other: "ScoredImage", *, place: str = "centre", other_place: str = "centre"
    ) -> float:
        """Return the agreement about the look, in [0, 1].

        That is the probability that both images give the same answer, averaged over
        LOOK_QUESTIONS.
        """
        # Probabilities instead of answers: two images on either side of the border between two
        # answers are still alike, and the score is smooth.
        mine, others = self.probabilities, other.probabilities
        return fmean(
            float((mine[f"{place}.{question}"] * others[f"{other_place}.{question}"]).sum())
            for question in LOOK_QUESTIONS
        )


@torch.no_grad()
def read(scorer: Scorer, images: Sequence[Image.Image]) -> list[ScoredImage]:
    """Return one reading per image, in order; images of other sizes are resized."""
    if not images:
        return []
    resized = [
        image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS) for image in images
    ]
    logits = scorer(to_pixels(np.stack([np.asarray(image) for image in resized])))
    probabilities = [F.softmax(scores.float(), dim=-1) for scores in logits]
    return [
        ScoredImage({question: p[i] for question, p in zip(QUESTIONS, probabilities, strict=True)})
        for i in range(len(images))
    ]
