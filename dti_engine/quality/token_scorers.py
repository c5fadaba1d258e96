"""Scorers of tokens, the miniature's or DINOv2 with SigLIP, and the prompts that they score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Protocol, Self

import torch
from PIL import Image

from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.config import CaptionFamily
from dti_engine.miniature.scorer import Scorer, load_scorer, read
from dti_engine.miniature.world import subjects
from dti_engine.scorers import DINOV2, FOLDERS, SIGLIP
from dti_engine.scorers.dinov2 import Dinov2, likeness
from dti_engine.scorers.siglip import Siglip, scored_text

_PROMPTS: Mapping[CaptionFamily, tuple[str, ...]] = {
    "object": (
        "a photo of a {} on a beach",
        "an oil painting of a {}",
        "a photo of a {} in the snow at night",
        "a {} on a wooden table, seen from above",
    ),
    "person": (
        "a photo of {} on a beach",
        "an oil painting of {}",
        "a photo of {} in the snow at night",
        "a photo of {} wearing a red hat",
    ),
    "style": (
        "a house in the style of {}",
        "a portrait of a woman in the style of {}",
        "a bowl of fruit in the style of {}",
        "a city at night in the style of {}",
    ),
}


@dataclass(frozen=True, slots=True)
class ValidationPrompt:
    """A prompt with `{}` for the subject, and the seed of its image, equal for all subjects."""

    template: str
    seed: int
    # What the miniature's scorer looks for, and the place where it looks for the subject.
    asked: Mapping[str, str] = field(default_factory=dict[str, str])
    place: str = "centre"

    def text(self, name: str) -> str:
        """Return the prompt with a placeholder or a word in it."""
        return self.template.replace("{}", name)


def validation_prompts(family: CaptionFamily, count: int) -> list[ValidationPrompt]:
    """Return the first `count` prompts for subjects of this family of captions."""
    if family == "miniature":
        prompts = [
            ValidationPrompt(prompt.template, seed, prompt.asked, prompt.place)
            for seed, prompt in enumerate(subjects.validation_prompts())
        ]
    else:
        prompts = [ValidationPrompt(text, seed) for seed, text in enumerate(_PROMPTS[family])]
    return prompts[:count]


PAPER = "paper"
"""The name of the scorer that the paper's scores are defined by; its models are on the hub."""


class TokenScorer(Protocol):
    """Scores images of one subject."""

    name: str

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        """Return the subject score and the prompt score of each image, in 0 .. 1.

        `prompts` are those of the images, in the same order. `references` are images that the
        subject was learned from, at least one. `class_noun` describes it in plain words.
        """
        ...


class MiniatureTokenScorer:
    """The scorer that ships with the miniature."""

    name = "miniature scorer"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        known = read(self._scorer, references)
        return [
            (
                fmean(reading.likeness(reference, place=prompt.place) for reference in known),
                reading.shows(prompt.asked),
            )
            for reading, prompt in zip(read(self._scorer, images), prompts, strict=True)
        ]


class PaperTokenScorer:
    """DINOv2 for the subject and SigLIP for the prompt, see `dti_engine.scorers`.

    A negative cosine counts as 0: the images have nothing in common. References are not masked.
    """

    def __init__(self, dinov2: Dinov2, siglip: Siglip, name: str) -> None:
        self._dinov2, self._siglip, self.name = dinov2, siglip, name

    @classmethod
    def load(cls, source: str, *, device: torch.device | str = "cpu") -> Self:
        """Load both models: those of PAPER, or from a folder that holds `scorers.FOLDERS`.

        Raises:
            ModelLoadError: They cannot be loaded or downloaded.
        """
        folders = [str(Path(source) / folder) for folder in FOLDERS]
        dinov2, siglip = (DINOV2, SIGLIP) if source == PAPER else folders
        name = "DINOv2 and SigLIP"
        return cls(Dinov2.load(dinov2, device=device), Siglip.load(siglip, device=device), name)

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        cosines = likeness(self._dinov2.features(images), self._dinov2.features(references))
        texts = [scored_text(prompt.template, class_noun) for prompt in prompts]
        prompt_scores = self._siglip.scores(images, texts)
        return [
            (min(max(cosine, 0.0), 1.0), prompt_score.probability)
            for cosine, prompt_score in zip(cosines, prompt_scores, strict=True)
        ]


def find_scorer(
    weights: str | Path, source: str | None = None, *, device: torch.device | str = "cpu"
) -> TokenScorer | None:
    """Return the scorer of `source` (see `PaperTokenScorer.load`), or the one beside the weights.

    Return None if there is neither. Nothing is downloaded unless `source` asks for it.

    Raises:
        ModelLoadError: The weights or the scorer cannot be found.
    """
    if source is not None:
        return PaperTokenScorer.load(source, device=device)
    # Known by its file, not by the model's name: a miniature of other weights has its own scorer.
    path = open_checkpoint(weights).folder / "scorer.safetensors"
    return MiniatureTokenScorer(load_scorer(path)) if path.is_file() else None
