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
from dti_engine.training.trainer import OnAdded, OnSnapshot, OnStep, Trainer

__all__ = ["StepMetrics", "Subject", "Trainer", "TrainingResult", "train"]


def train(
    backbone: Backbone,
    subjects: Iterable[Subject],
    config: TrainConfig,
    *,
    num_slots: int,
    max_vectors: int = 8,
    flush_every: int | None = None,
    on_added: OnAdded = lambda slot, occupant: None,
    on_step: OnStep = lambda _: None,
    snapshot_steps: Container[int] = (),
    on_snapshot: OnSnapshot = lambda subject, artifact: None,
    checkpoints: CheckpointManager | None = None,
) -> Iterator[TrainingResult]:
    """Train any number of subjects, `num_slots` at a time; yields outcomes in order of ending.

    Work is done as outcomes are taken, and what was taken survives whatever stops the rest. A
    subject is taken from `subjects` when a slot falls free, so an iterator may load images as it
    goes. Subjects may have configs of their own, if they can share a batch
    (`TrainConfig.incompatibility_with`), and each counts its own steps. One that cannot be trained
    is an outcome too, with its error. Options: see `Trainer`.

    With `checkpoints`, subjects go on from those that exist, and are saved every so many of their
    steps, and all at the end of the step in which it is stopped; no more is yielded then. To take a
    finished subject's checkpoint away is up to the caller, once the artifact is safe.

    Raises: ConfigurationError, at once, as `Trainer`.
    """
    trainer = Trainer(
        backbone,
        config,
        num_slots=num_slots,
        max_vectors=max_vectors,
        flush_every=flush_every,
        on_added=on_added,
        on_step=on_step,
        snapshot_steps=snapshot_steps,
        on_snapshot=on_snapshot,
    )
    return _outcomes(trainer, iter(subjects), checkpoints)


def _outcomes(
    trainer: Trainer, queue: Iterator[Subject], checkpoints: CheckpointManager | None
) -> Iterator[TrainingResult]:
    is_stopping = False
    while not is_stopping:
        yield from _refill(trainer, queue, checkpoints)
        if not any(trainer.slots):
            return
        # Asked once a round, or a stop between two questions would keep nobody.
        is_stopping = checkpoints is not None and checkpoints.stop_requested
        if not is_stopping:
            yield from trainer.step()
        if checkpoints:
            yield from _keep(trainer, checkpoints, everybody=is_stopping)


def _refill(
    trainer: Trainer, queue: Iterator[Subject], checkpoints: CheckpointManager | None
) -> Iterator[TrainingResult]:
    """Seat subjects while there is room; yields those that cannot be trained."""
    while None in trainer.slots and not (checkpoints and checkpoints.stop_requested):
        if (subject := next(queue, None)) is None:
            return
        try:
            trainer.add(subject, checkpoints.load(subject.id) if checkpoints else None)
        except SubjectError as error:
            yield TrainingResult(subject.without_images(), error=error.bare())


def _keep(
    trainer: Trainer, checkpoints: CheckpointManager, *, everybody: bool
) -> Iterator[TrainingResult]:
    """Keep the subjects that are due; yields those of whom it turns out that they have failed."""
    steps = {slot: each.step for slot, each in enumerate(trainer.slots) if each and each.step}
    due = [slot for slot, step in steps.items() if everybody or checkpoints.is_due(step)]
    if due:
        yield from trainer.flush()
    # In order of slots, so that a run that is killed half-way fills them alike when it goes on.
    for slot in due:
        if trainer.slots[slot]:
            checkpoints.save(trainer.checkpoint(slot))
