"""One evaluation of one domain in one folder: trains, generates and scores what is missing."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import TypeAlias

import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.evaluation.domain import Domain
from dti_engine.evaluation.protocol import EvaluationProtocol
from dti_engine.evaluation.rows import EvaluationImage, TableRow, TokenKey, row_images
from dti_engine.evaluation.scoring import ImageEvaluator
from dti_engine.evaluation.store import EvaluationStore, ImageScore
from dti_engine.evaluation.training import train_missing, training_runs, untrained
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.training.checkpoint_manager import CHECKPOINT_EVERY

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Gets the name of an activity, how much of it is done, and the total; first before this start has
done any of it."""


def ignore_progress(activity: str, done: int, total: int) -> None:
    """Ignore progress."""


class Study:
    """Finished work is kept in the store, so that a stopped study continues."""

    def __init__(
        self,
        backbone: Backbone,
        domain: Domain,
        protocol: EvaluationProtocol,
        store: EvaluationStore,
        *,
        batch_size: int,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        """Prepare; `batch_size` images are generated, and scored, at once."""
        self._backbone, self._domain, self._protocol = backbone, domain, protocol
        self.store, self.on_progress = store, on_progress
        self._evaluator = ImageEvaluator(backbone, domain, protocol, store, batch_size=batch_size)

    def images(
        self,
        rows: Iterable[TableRow],
        subjects: Sequence[str],
        *,
        num_training_seeds: int | None = None,
        num_image_seeds: int | None = None,
    ) -> list[EvaluationImage]:
        """Return all images of the rows; None stands for the protocol's number of seeds."""
        num_prompts = {subject: len(self._domain.prompts(subject)) for subject in subjects}
        return [
            image
            for row in rows
            for image in row_images(
                row,
                num_prompts,
                num_training_seeds=num_training_seeds or self._protocol.num_training_seeds,
                num_image_seeds=num_image_seeds or self._protocol.num_image_seeds,
            )
        ]

    def num_untrained(self, key: TokenKey, subjects: Sequence[str]) -> int:
        """Return how many tokens of this key are still to be trained."""
        runs = training_runs(subjects, self._protocol.num_training_seeds)
        return len(untrained(self.store, [key], runs))

    def num_missing(self, images: Sequence[EvaluationImage]) -> int:
        """Return how many of these images are still to be generated."""
        return sum(map(len, self._evaluator.missing(images)))

    def train(
        self,
        activity: str,
        keys: Sequence[TokenKey],
        config: TrainConfig,
        subjects: Sequence[str],
        *,
        num_slots: int,
        max_vectors: int = 8,
        num_training_seeds: int | None = None,
        uses_checkpoints: bool = False,
    ) -> None:
        """Train these tokens where they are missing; see `train_missing`.

        Raises:
            TrainingFailedError, SubjectError: A subject cannot be trained.
        """
        runs = training_runs(subjects, num_training_seeds or self._protocol.num_training_seeds)
        total = len(runs) * config.steps
        checkpoints = None
        if uses_checkpoints:
            checkpoints = self.store.checkpoints(keys[0].name, every=CHECKPOINT_EVERY)
        train_missing(
            self._backbone,
            self._domain,
            self.store,
            keys,
            config,
            runs,
            num_slots=num_slots,
            max_vectors=max_vectors,
            checkpoints=checkpoints,
            on_steps=lambda done: self.on_progress(activity, done, total),
        )

    def generate(self, activity: str, *groups: Sequence[EvaluationImage]) -> None:
        """Generate and score these images where scores are missing; no batch spans two groups."""
        total = sum(map(len, groups))
        done = total - sum(map(self.num_missing, groups))
        self.on_progress(activity, done, total)

        def count(more: int) -> None:
            nonlocal done
            done += more
            self.on_progress(activity, done, total)

        for group in groups:
            self._evaluator.score_missing(group, on_images=count)

    def scores(self, images: Iterable[EvaluationImage]) -> list[ImageScore]:
        """Return the scores of these images, all of which must be scored."""
        return [self.store.scores[image.key] for image in images]

    def lengths(
        self, row: TableRow, subjects: Sequence[str], *, num_training_seeds: int | None = None
    ) -> dict[str, float]:
        """Return the mean length of the vectors that name the subjects, in m*, per text encoder."""
        num_seeds = num_training_seeds or self._protocol.num_training_seeds
        lengths: dict[str, float] = {}
        for name, encoder in self._backbone.text_encoders.items():
            if row.length is not None:
                lengths[name] = row.length
                continue
            if row.token is None:
                words = map(self._domain.class_word, subjects)
                tables = [initializer_rows(encoder, word) for word in words]
            else:
                tables = [
                    self.store.load_token(row.token, subject, seed).token.embeddings[name]
                    for subject in subjects
                    for seed in range(num_seeds)
                ]
            mean = fmean(fmean(torch.linalg.vector_norm(t, dim=-1).tolist()) for t in tables)
            lengths[name] = mean / vocabulary_magnitude(encoder)
        return lengths
