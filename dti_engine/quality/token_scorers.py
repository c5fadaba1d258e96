"""Who reads images and scores them: the miniature's scorer, or DINOv2 with SigLIP.

Prompts to try out a token in. Loads no torch.
"""

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
    """A prompt with `{}` for the subject, and the seed of its image, for all subjects alike."""

    template: str
    seed: int
    asked: Mapping[str, str] = field(default_factory=dict[str, str])  # that the miniature's scorer
    place: str = "centre"  # can look for, and where it then looks for the subject

    def prompt(self, name: str) -> str:
        """With a placeholder or a word in it."""
        return self.template.replace("{}", name)


def probes(family: CaptionFamily, count: int) -> list[ValidationPrompt]:
    """Return the first `count` prompts for subjects of this caption family."""
    if family == "miniature":
        from dti_engine.miniature.world.subjects import probe_prompts

        asked = enumerate(probe_prompts())
        return [ValidationPrompt(each.template, i, each.asked, each.place) for i, each in asked][
            :count
        ]
    return [ValidationPrompt(template, i) for i, template in enumerate(_PROMPTS[family])][:count]


PAPER = "paper"
"""Name of the judge that the paper's scores are defined by, from the hub."""


class TokenScorer(Protocol):
    """Scores images of one subject."""

    name: str

    def scores(
        self,
        images: Sequence[Image.Image],
        probes: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        """Subject score and prompt score of each image, in 0 .. 1; images are of the probes.

        references: images that the subject was learned from, at least one. class_noun: what it
        is, in plain words.
        """
        ...


class MiniatureTokenScorer:
    """The scorer that ships with the miniature."""

    name = "miniature scorer"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def scores(
        self,
        images: Sequence[Image.Image],
        probes: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        known = read(self._scorer, references)
        return [
            (
                fmean(reading.likeness(each, place=probe.place) for each in known),
                reading.shows(probe.asked),
            )
            for reading, probe in zip(read(self._scorer, images), probes, strict=True)
        ]


class PaperTokenScorer:
    """DINOv2 for the subject and SigLIP for the prompt, see `scorers`.

    A negative cosine counts as 0: the images have nothing in common. References are not masked.
    """

    def __init__(self, dinov2: Dinov2, siglip: Siglip, name: str) -> None:
        self._dinov2, self._siglip, self.name = dinov2, siglip, name

    @classmethod
    def load(cls, source: str, *, device: torch.device | str = "cpu") -> Self:
        """By the name PAPER, or from a folder that holds `scorers.FOLDERS`.

        Raises: ModelLoadError if they are not to be had.
        """
        folders = [str(Path(source) / folder) for folder in FOLDERS]
        dinov2, siglip = (DINOV2, SIGLIP) if source == PAPER else folders
        name = "DINOv2 and SigLIP"
        return cls(Dinov2.load(dinov2, device=device), Siglip.load(siglip, device=device), name)

    def scores(
        self,
        images: Sequence[Image.Image],
        probes: Sequence[ValidationPrompt],
        references: Sequence[Image.Image],
        class_noun: str,
    ) -> list[tuple[float, float]]:
        likenesses = likeness(self._dinov2.features(images), self._dinov2.features(references))
        texts = [scored_text(probe.template, class_noun) for probe in probes]
        obeyed = self._siglip.scores(images, texts)
        return [
            (min(max(cosine, 0.0), 1.0), prompt.probability)
            for cosine, prompt in zip(likenesses, obeyed, strict=True)
        ]


def find_judge(
    weights: str | Path, asked: str | None = None, *, device: torch.device | str = "cpu"
) -> TokenScorer | None:
    """Return the scorer that is asked for, or the one beside these weights, or None.

    See `PaperTokenScorer.load`. Nothing is downloaded that is not asked for.

    Raises: ModelLoadError if there are no weights.
    """
    if asked is not None:
        return PaperTokenScorer.load(asked, device=device)
    path = open_checkpoint(weights).folder / "scorer.safetensors"
    return MiniatureTokenScorer(load_scorer(path)) if path.is_file() else None
