"""The training loop: runs any number of subjects through the slots of one packed batch.

A slot is refilled at once when its subject ends, finished or failed. `trainer` has one step.
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
    on_added: OnAdded = lambda index, slot: None,
    on_step: OnStep = lambda metrics: None,
    snapshot_steps: Container[int] = (),
    on_snapshot: OnSnapshot = lambda subject, artifact: None,
    checkpoints: CheckpointManager | None = None,
) -> Iterator[TrainingResult]:
    """Train any number of subjects, `num_slots` at a time; yield results in order of completion.

    The iterator is lazy: it trains while results are taken, and a result that was taken survives
    whatever stops the rest. A subject is taken from `subjects` when a slot falls free, so
    `subjects` may load images on demand. Subjects may have configs of their own that are compatible
    (`TrainConfig.incompatibility_with`); each counts its own steps. A subject that cannot be
    trained yields a result with its error. The other options are those of `Trainer`.

    With `checkpoints`, a subject resumes from its checkpoint if there is one, and is saved at
    intervals of its own steps. After `request_stop`, all subjects are saved at the end of the
    current step, and the iterator ends. The caller removes a subject's checkpoint once its artifact
    is safe.

    Raises:
        ConfigurationError: As `Trainer`, at the call, before the first result.
    """
    # Outside of the generator, so that a wrong option raises at the call, not when the first result
    # is taken.
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
    return _run(trainer, iter(subjects), checkpoints)


def _run(
    trainer: Trainer, queue: Iterator[Subject], checkpoints: CheckpointManager | None
) -> Iterator[TrainingResult]:
    stopping = False
    while not stopping:
        yield from _fill_slots(trainer, queue, checkpoints)
        if not any(trainer.slots):
            return
        # Read once per round: a stop between two reads would end the loop without saving anything.
        stopping = checkpoints is not None and checkpoints.stop_requested
        if not stopping:
            yield from trainer.step()
        if checkpoints:
            yield from _save_checkpoints(trainer, checkpoints, save_all=stopping)


def _fill_slots(
    trainer: Trainer, queue: Iterator[Subject], checkpoints: CheckpointManager | None
) -> Iterator[TrainingResult]:
    """Add subjects while a slot is free; yield a result for each that cannot be trained."""
    while None in trainer.slots and not (checkpoints and checkpoints.stop_requested):
        if (subject := next(queue, None)) is None:
            return
        try:
            # Only errors of the subject are caught, a bad checkpoint among them. Anything else,
            # such as a lack of memory, would meet the next subject too, and ends the run.
            trainer.add(subject, checkpoints.load(subject.id) if checkpoints else None)
        except SubjectError as error:
            yield TrainingResult(subject.without_images(), error=error.bare())


def _save_checkpoints(
    trainer: Trainer, checkpoints: CheckpointManager, *, save_all: bool
) -> Iterator[TrainingResult]:
    """Save the subjects that are due; yield those that the flush before it shows to have ended."""
    # A subject without a step has nothing to save: it starts again at no cost.
    steps = {index: slot.step for index, slot in enumerate(trainer.slots) if slot and slot.step}
    due = [index for index, step in steps.items() if save_all or checkpoints.is_due(step)]
    if due:
        yield from trainer.flush()
    # In order of slots: a run killed half-way through then refills its slots in the same order.
    for index in due:
        # The flush may have ended it.
        if trainer.slots[index]:
            checkpoints.save(trainer.checkpoint(index))
