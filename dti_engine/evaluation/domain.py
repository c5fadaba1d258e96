"""The interface of an evaluation domain: subjects, their prompts, and their scorers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

from PIL import Image

from dti_engine.config import TrainConfig
from dti_engine.evaluation.rows import EvaluationImage, TableRow
from dti_engine.evaluation.store import ImageScore
from dti_engine.subject import Subject

DrawImages: TypeAlias = Callable[[Sequence[EvaluationImage]], list[Image.Image]]
"""Draws one image for each of these, in the same order."""


class Domain(ABC):
    """A domain of the evaluation: its subjects, prompts and scorers. Subjects are known by name."""

    @abstractmethod
    def prompts(self, subject: str) -> Sequence[str]:
        """Return the subject's prompts, with `{}` for its name."""

    @abstractmethod
    def placeholder(self, subject: str) -> str:
        """Return the placeholder of the subject's token."""

    @abstractmethod
    def class_word(self, subject: str) -> str:
        """Return the word of the vocabulary that describes the subject without a token."""

    @abstractmethod
    def training_subject(
        self, subject: str, training_seed: int, config: TrainConfig, *, id: str
    ) -> Subject:
        """Return the subject as it is trained by `config` with this seed, counted from 0."""

    @abstractmethod
    def noise_seed(self, image: EvaluationImage) -> int:
        """Return the seed of the image's noise; it must not depend on the row."""

    @abstractmethod
    def score(
        self, images: Sequence[EvaluationImage], pixels: Sequence[Image.Image]
    ) -> list[ImageScore]:
        """Score generated images; `pixels` are theirs, in the same order."""

    def prompt(self, image: EvaluationImage) -> str:
        """Return the prompt as the image's row words it."""
        name = self.placeholder if image.row.token else self.class_word
        return self.prompts(image.subject)[image.prompt].replace("{}", name(image.subject))

    def drawer(self, row: TableRow) -> DrawImages | None:
        """Return the function that draws the images of a row, or None if the model makes them."""
        return None
