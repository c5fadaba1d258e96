"""The training loop: any number of subjects through the slots of one packed batch.

A slot is refilled at once when its subject ends, finished or failed. See `packing` for a step.
"""

from collections.abc import Container, Iterable, Iterator

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import SubjectError
from dti_engine.subject import Subject
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.result import TrainingResult
from dti_engine.training.trainer import OnKept, OnSeated, OnStep, Trainer

__all__ = ["StepMetrics", "Subject", "Trainer", "TrainingResult", "train"]


def train(
    backbone: Backbone,
    subjects: Iterable[Subject],
    config: TrainConfig,
    *,
    num_slots: int,
    max_vectors: int = 8,
    report_every: int | None = None,
    on_seated: OnSeated = lambda slot, occupant: None,
    on_step: OnStep = lambda _: None,
    keep_at: Container[int] = (),
    on_kept: OnKept = lambda subject, artifact: None,
    keeper: CheckpointManager | None = None,
) -> Iterator[TrainingResult]:
    """Train any number of subjects, `num_slots` at a time; yields outcomes in order of ending.

    Work is done as outcomes are taken, and what was taken survives whatever stops the rest. A
    subject is taken from `subjects` when a slot falls free, so an iterator may load images as it
    goes. Subjects may have configs of their own, if they can share a batch
    (`TrainConfig.incompatibility_with`), and each counts its own steps. One that cannot be trained
    is an outcome too, with its error. Options: see `Trainer`.

    With a keeper, subjects go on from the checkpoints that it has, are kept every so many of their
    steps, and all at the end of the step in which it is stopped; no more is yielded then. To take a
    finished subject's checkpoint away is up to the caller, once the artifact is safe.

    Raises: ConfigurationError, at once, as `Trainer`.
    """
    trainer = Trainer(
        backbone,
        config,
        num_slots=num_slots,
        max_vectors=max_vectors,
        report_every=report_every,
        on_seated=on_seated,
        on_step=on_step,
        keep_at=keep_at,
        on_kept=on_kept,
    )
    return _outcomes(trainer, iter(subjects), keeper)


def _outcomes(
    trainer: Trainer, queue: Iterator[Subject], keeper: CheckpointManager | None
) -> Iterator[TrainingResult]:
    is_stopping = False
    while not is_stopping:
        yield from _refill(trainer, queue, keeper)
        if not any(trainer.occupants):
            return
        # Asked once a round, or a stop between two questions would keep nobody.
        is_stopping = keeper is not None and keeper.is_stopped
        if not is_stopping:
            yield from trainer.step()
        if keeper:
            yield from _keep(trainer, keeper, everybody=is_stopping)


def _refill(
    trainer: Trainer, queue: Iterator[Subject], keeper: CheckpointManager | None
) -> Iterator[TrainingResult]:
    """Seat subjects while there is room; yields those that cannot be trained."""
    while None in trainer.occupants and not (keeper and keeper.is_stopped):
        if (subject := next(queue, None)) is None:
            return
        try:
            trainer.seat(subject, keeper.load(subject.id) if keeper else None)
        except SubjectError as error:
            yield TrainingResult(subject.without_images(), error=error.bare())


def _keep(
    trainer: Trainer, keeper: CheckpointManager, *, everybody: bool
) -> Iterator[TrainingResult]:
    """Keep the subjects that are due; yields those of whom it turns out that they have failed."""
    steps = {slot: each.step for slot, each in enumerate(trainer.occupants) if each and each.step}
    due = [slot for slot, step in steps.items() if everybody or keeper.is_due(step)]
    if due:
        yield from trainer.collect()
    # In order of slots, so that a run that is killed half-way fills them alike when it goes on.
    for slot in due:
        if trainer.occupants[slot]:
            keeper.save(trainer.checkpoint(slot))
