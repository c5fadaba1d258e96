"""Who reads pictures and scores them: so far the miniature's scorer, for its pictures."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

from PIL import Image

from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.miniature.scorer import Scorer, load_scorer, read
from dti_engine.quality.probes import Probe


class Judge(Protocol):
    """Scores pictures of one subject."""

    name: str

    def scores(
        self,
        pictures: Sequence[Image.Image],
        probes: Sequence[Probe],
        references: Sequence[Image.Image],
    ) -> list[tuple[float, float]]:
        """Subject score and prompt score of each picture, in 0 .. 1; pictures are of the probes.

        references: pictures that the subject was learned from, at least one.
        """
        ...


class MiniatureJudge:
    """The scorer that ships with the miniature."""

    name = "miniature scorer"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def scores(
        self,
        pictures: Sequence[Image.Image],
        probes: Sequence[Probe],
        references: Sequence[Image.Image],
    ) -> list[tuple[float, float]]:
        known = read(self._scorer, references)
        return [
            (
                fmean(reading.likeness(each, place=probe.place) for each in known),
                reading.shows(probe.asked),
            )
            for reading, probe in zip(read(self._scorer, pictures), probes, strict=True)
        ]


def find_judge(weights: str | Path) -> Judge | None:
    """The judge that lies beside these weights; None if there is none.

    Raises: BackboneLoadError if there are no weights.
    """
    path = open_checkpoint(weights).folder / "scorer.safetensors"
    return MiniatureJudge(load_scorer(path)) if path.is_file() else None
