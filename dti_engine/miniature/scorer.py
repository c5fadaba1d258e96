"""The miniature's scorer: reads what an image of the world shows, and compares subjects.

A small image network answers every question of `labels`. A prompt is followed where the answers
match the attributes that it asks for. The likeness of two subjects is the agreement of the answers
about their looks; questions about background, style and accessory do not count there.
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

from dti_engine.miniature.labels import QUESTIONS, Answers
from dti_engine.miniature.pipeline import to_pixels
from dti_engine.miniature.world.scenery import SIZE

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
