"""Carries out an evaluation on photographs. Whatever is done is kept, so one goes on where it was
stopped; more methods can be evaluated in the same folder later.

Trains the tokens that an evaluation on photographs lacks.

The contact sheet: some subjects in some prompts, every method, to look at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TypeAlias

import torch
from PIL import Image, ImageOps

from dti_engine import __version__
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.contact_sheet import Block, cell_of, sheet_of
from dti_engine.evaluation.photographs.protocol import Protocol, spread
from dti_engine.evaluation.photographs.report import (
    Results,
    SubjectFacts,
    differences,
    per_subject,
    row_result,
)
from dti_engine.evaluation.photographs.scoring import Examiner
from dti_engine.evaluation.photographs.store import Store
from dti_engine.evaluation.photographs.subjects import (
    EvaluationImage,
    PhotographedSubject,
    Row,
    shots,
)
from dti_engine.files import environment
from dti_engine.subject import Subject
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.training.checkpoint_manager import CHECKPOINT_EVERY
from dti_engine.training.loop import train
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.result import TrainingResult

Runs: TypeAlias = dict[str, tuple[PhotographedSubject, int]]
"""Id of a training -> its subject, and its seed, counted from 0."""


def train_missing(
    backbone: Backbone,
    store: Store,
    protocol: Protocol,
    name: str,
    config: TrainConfig,
    subjects: Sequence[PhotographedSubject],
    *,
    num_slots: int,
    max_vectors: int,
    on_steps: Callable[[int], None],
) -> None:
    """Train the tokens of this name, of every subject from every seed, unless it is done.

    All subjects are trained alike: of what a bundle says, captions, kind and vectors count. Masks
    do not, as in the paper, where they are for scoring alone. max_vectors: room of each token.
    on_steps gets the number of steps that are done in all.

    Raises: TrainingFailedError or SubjectError of a run that fails, once the others are kept.
    """
    missing = untrained(store, protocol, name, subjects)
    done = {run: config.steps for run in _runs(protocol, subjects) if run not in missing}
    on_steps(sum(done.values()))
    if not missing:
        return

    def on_step(reports: Sequence[StepMetrics]) -> None:
        done.update({report.subject_id: report.step for report in reports})
        on_steps(sum(done.values()))

    checkpoints = store.checkpoints(name, every=CHECKPOINT_EVERY)
    # Those on their way first, each to the slot that it had.
    order = sorted(missing, key=lambda run: not checkpoints.path(run).exists())
    outcomes = train(
        backbone,
        (_subject(run, *missing[run], protocol, config) for run in order),
        config,
        num_slots=num_slots,
        max_vectors=max_vectors,
        on_step=on_step,
        checkpoints=checkpoints,
    )
    failed: TrainingResult | None = None
    for each in outcomes:
        if each.artifact:
            subject, seed = missing[each.subject.id]
            each.artifact.save(store.token(name, subject, seed))
            checkpoints.remove(each.subject.id)
            store.note_time()
            done[each.subject.id] = config.steps
            on_steps(sum(done.values()))
        elif failed is None:
            failed = each
    if failed and failed.error:
        raise type(failed.error)(f"{failed.subject.id}: {failed.error}") from failed.error


def untrained(
    store: Store, protocol: Protocol, name: str, subjects: Sequence[PhotographedSubject]
) -> Runs:
    """Those of which there is no token of this name yet."""
    return {
        run: (subject, seed)
        for run, (subject, seed) in _runs(protocol, subjects).items()
        if not store.token(name, subject, seed).exists()
    }


def _runs(protocol: Protocol, subjects: Sequence[PhotographedSubject]) -> Runs:
    return {
        _id(subject, seed): (subject, seed)
        for seed in range(protocol.num_training_seeds)
        for subject in subjects
    }


def _id(subject: PhotographedSubject, training_seed: int) -> str:
    return f"{subject.name}-training{training_seed}"


def _subject(
    run: str,
    subject: PhotographedSubject,
    training_seed: int,
    protocol: Protocol,
    config: TrainConfig,
) -> Subject:
    own = config.changed(captions=subject.captions) if subject.captions else config
    return Subject(
        id=run,
        images=[replace(each, mask=None) for each in subject.images()],
        placeholder=subject.placeholder,
        initializer=subject.initializer,
        seed=protocol.training_seed(training_seed),
        num_vectors=subject.num_vectors,
        config=own,
    )


_NUM_SUBJECTS, _NUM_PROMPTS, _CELL_PX = 3, 8, 192


def contact_sheet(
    store: Store, rows: Sequence[Row], subjects: Sequence[PhotographedSubject]
) -> Image.Image:
    """Photos and first images of a few subjects that share the prompts of the first one."""
    prompts = subjects[0].prompts
    alike = [each for each in subjects if each.prompts == prompts][:_NUM_SUBJECTS]
    columns = [prompts.index(each) for each in spread(prompts, _NUM_PROMPTS)]

    def block(subject: PhotographedSubject) -> Block:
        side = (_CELL_PX, _CELL_PX)
        photos = [ImageOps.fit(each.image, side) for each in subject.images()]
        shots = {
            row: [EvaluationImage(row, subject, column, image_seed=0) for column in columns]
            for row in rows
        }
        images = {
            row.title: [
                cell_of(store.image(shot), cell_px=_CELL_PX, resample=Image.Resampling.LANCZOS)
                for shot in of_row
            ]
            for row, of_row in shots.items()
        }
        return Block(subject.name, photos[: len(columns)], images)

    return sheet_of(
        [block(subject) for subject in alike],
        [prompts[column] for column in columns],
        cell_px=_CELL_PX,
    )


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
                initializer_rows(encoder, each.class_noun)
                initializer_rows(encoder, each.initializer)
        self._backbone, self._protocol, self._subjects = backbone, protocol, subjects
        self._store, self._judges = store, judges

    def num_untrained(self, name: str) -> int:
        """Tokens of this name that are still to be trained."""
        return len(untrained(self._store, self._protocol, name, self._subjects))

    def num_missing(self, rows: Sequence[Row], examiner: Examiner) -> int:
        """Images of these rows that are still to be generated."""
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

    def generate(
        self, rows: Sequence[Row], examiner: Examiner, *, on_progress: OnProgress = _tell_nobody
    ) -> None:
        """Generate and score what these rows lack, and leave sheet.png in the folder.

        Raises: as `generate`; ConfigurationError if an image that is scored is gone.
        """
        total = sum(len(self._shots(row)) for row in rows)
        done = total - self.num_missing(rows, examiner)
        on_progress("generate", done, total)

        def count(more: int) -> None:
            nonlocal done
            done += more
            on_progress("generate", done, total)

        for row in rows:
            examiner.score_missing(self._shots(row), on_images=count)
        contact_sheet(self._store, rows, self._subjects).save(self._store.folder / "sheet.png")

    def results(self, rows: Sequence[Row], configs: Mapping[str, TrainConfig]) -> Results:
        """What came of these rows, all of whose images must be scored; configs as in `train`."""
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
                    num_images=len(scores[row]),
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

    def _shots(self, row: Row) -> list[EvaluationImage]:
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
                tables = [initializer_rows(encoder, each.class_noun) for each in self._subjects]
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
