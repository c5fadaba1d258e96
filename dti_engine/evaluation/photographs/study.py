"""Carries out an evaluation on photographs. Whatever is done is kept, so one goes on where it was
stopped; more methods can be evaluated in the same folder later.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TypeAlias

import torch

from dti_engine import __version__
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.environment import environment
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs.protocol import Protocol
from dti_engine.evaluation.photographs.results import (
    Results,
    SubjectFacts,
    differences,
    per_subject,
    row_result,
)
from dti_engine.evaluation.photographs.rows import Row, Shot, shots
from dti_engine.evaluation.photographs.scoring import Examiner
from dti_engine.evaluation.photographs.sheet import contact_sheet
from dti_engine.evaluation.photographs.store import Store
from dti_engine.evaluation.photographs.subjects import PhotographedSubject
from dti_engine.evaluation.photographs.training import train_missing, untrained
from dti_engine.vocabulary import initial_rows, vocabulary_magnitude

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Gets what is being done, how much of it is done, and how much of it there is; first before any
of it is done in this start."""


def _tell_nobody(doing: str, done: int, total: int) -> None:
    pass


def identity(
    backbone: Backbone,
    protocol: Protocol,
    subjects: Sequence[PhotographedSubject],
    judges: Sequence[str],
    *,
    weights_sha256: str,
) -> dict[str, object]:
    """All that scores depend on, and not on the machine. Not the methods: none needs another.

    judges: sha256 of the weights of each.
    """
    return {
        "study": "photographs",
        "engine_version": __version__,
        "protocol": protocol.model_dump(mode="json"),
        "weights_sha256": weights_sha256,
        "judges": list(judges),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "subjects": {each.name: each.document() for each in subjects},
    }


class Study:
    """One evaluation in one folder."""

    def __init__(
        self,
        backbone: Backbone,
        protocol: Protocol,
        subjects: Sequence[PhotographedSubject],
        store: Store,
        *,
        judges: Mapping[str, str],
    ) -> None:
        """judges: name of each scorer -> sha256 of its weights, for the report.

        Raises: ConfigurationError if there are fewer than 2 subjects; TokenError if a text encoder
            does not know a class noun or initializer.
        """
        if len(subjects) < 2:
            raise ConfigurationError(
                f"intervals are over subjects, and there is {len(subjects)}; give a folder of at "
                "least 2 bundles"
            )
        for each in subjects:  # now, not after hours
            for encoder in backbone.text_encoders.values():
                initial_rows(encoder, each.class_noun)
                initial_rows(encoder, each.initializer)
        self._backbone, self._protocol, self._subjects = backbone, protocol, subjects
        self._store, self._judges = store, judges

    def num_untrained(self, name: str) -> int:
        """Tokens of this name that are still to be trained."""
        return len(untrained(self._store, self._protocol, name, self._subjects))

    def num_unpainted(self, rows: Sequence[Row], examiner: Examiner) -> int:
        """Pictures of these rows that are still to be painted."""
        return sum(len(each) for row in rows for each in examiner.missing(self._shots(row)))

    def train(
        self,
        configs: Mapping[str, TrainConfig],
        *,
        num_slots: int,
        max_vectors: int,
        on_progress: OnProgress = _tell_nobody,
    ) -> None:
        """configs: name of a token -> how it is trained. Raises: as `train_missing`."""
        runs = len(self._subjects) * self._protocol.num_training_seeds
        for name, config in configs.items():
            train_missing(
                self._backbone,
                self._store,
                self._protocol,
                name,
                config,
                self._subjects,
                num_slots=num_slots,
                max_vectors=max_vectors,
                on_steps=partial(_tell, on_progress, f"train {name}", runs * config.steps),
            )

    def paint(
        self, rows: Sequence[Row], examiner: Examiner, *, on_progress: OnProgress = _tell_nobody
    ) -> None:
        """Paint and score what these rows lack, and leave sheet.png in the folder.

        Raises: as `generate`; ConfigurationError if a picture that is scored is gone.
        """
        total = sum(len(self._shots(row)) for row in rows)
        done = total - self.num_unpainted(rows, examiner)
        on_progress("paint", done, total)

        def count(more: int) -> None:
            nonlocal done
            done += more
            on_progress("paint", done, total)

        for row in rows:
            examiner.score_missing(self._shots(row), on_pictures=count)
        contact_sheet(self._store, rows, self._subjects).save(self._store.folder / "sheet.png")

    def results(self, rows: Sequence[Row], configs: Mapping[str, TrainConfig]) -> Results:
        """What came of these rows, all of whose pictures must be scored; configs as in `train`."""
        names = [subject.name for subject in self._subjects]
        wanted = {row: self._shots(row) for row in rows}
        scores = {
            row: [self._store.scores[shot.key] for shot in of_row] for row, of_row in wanted.items()
        }
        samples = {row: per_subject(found, row, names) for row, found in scores.items()}
        is_masked = all(subject.is_masked for subject in self._subjects)
        return Results(
            backbone=self._backbone.name,
            protocol=self._protocol.model_dump(mode="json"),
            judges=self._judges,
            subjects=[
                SubjectFacts(s.name, s.class_noun, len(s.photos), s.num_masks, s.prompts)
                for s in self._subjects
            ],
            is_masked=is_masked,
            configs={name: each.model_dump(mode="json") for name, each in configs.items()},
            rows=[
                row_result(
                    row,
                    samples[row],
                    num_pictures=len(scores[row]),
                    is_masked=is_masked,
                    lengths=self._lengths(row),
                )
                for row in rows
            ],
            differences=differences(samples, is_masked=is_masked),
            seconds=self._store.note_time(),
            environment=environment(
                self._backbone.device, model=self._backbone.name, dtype=self._backbone.dtype
            ),
        )

    def _shots(self, row: Row) -> list[Shot]:
        protocol = self._protocol
        return list(
            shots(
                row,
                self._subjects,
                num_training_seeds=protocol.num_training_seeds,
                num_image_seeds=protocol.num_image_seeds,
            )
        )

    def _lengths(self, row: Row) -> dict[str, float]:
        """Encoder -> mean length of what names the subject, in m*."""
        found: dict[str, float] = {}
        for name, encoder in self._backbone.text_encoders.items():
            if row.is_rescaled:
                found[name] = 1.0
                continue
            if row.token is None:
                tables = [initial_rows(encoder, each.class_noun) for each in self._subjects]
            else:
                tables = [
                    self._store.load_token(row.token, subject, seed).token.embeddings[name]
                    for subject in self._subjects
                    for seed in range(self._protocol.num_training_seeds)
                ]
            mean = fmean(fmean(torch.linalg.vector_norm(t, dim=-1).tolist()) for t in tables)
            found[name] = mean / vocabulary_magnitude(encoder)
        return found


def _tell(on_progress: OnProgress, doing: str, total: int, done: int) -> None:
    on_progress(doing, done, total)
