"""Training of the tokens that an evaluation lacks, with snapshots after several numbers of steps.

At a constant rate nothing in training depends on how many steps are still to come, so a snapshot
is the token of a shorter run: one run gives the whole frontier.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.evaluation.domain import Domain
from dti_engine.evaluation.rows import TokenKey
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.loop import train
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.result import TrainingResult


@dataclass(frozen=True, slots=True)
class SubjectTraining:
    """A training of one subject."""

    subject: str
    training_seed: int  # counted from 0

    @property
    def id(self) -> str:
        """The id of the subject during training."""
        return f"{self.subject}-training{self.training_seed}"


def training_runs(subjects: Sequence[str], num_training_seeds: int) -> list[SubjectTraining]:
    """Return one run for every subject and training seed."""
    return [
        SubjectTraining(subject, seed) for seed in range(num_training_seeds) for subject in subjects
    ]


def untrained(
    store: EvaluationStore, keys: Sequence[TokenKey], runs: Sequence[SubjectTraining]
) -> list[SubjectTraining]:
    """Return the runs of which at least one of these tokens does not exist yet."""
    return [
        run
        for run in runs
        if not all(store.token(key, run.subject, run.training_seed).exists() for key in keys)
    ]


def train_missing(
    backbone: Backbone,
    domain: Domain,
    store: EvaluationStore,
    keys: Sequence[TokenKey],
    config: TrainConfig,
    runs: Sequence[SubjectTraining],
    *,
    num_slots: int,
    max_vectors: int = 8,
    checkpoints: CheckpointManager | None = None,
    on_steps: Callable[[int], None],
) -> None:
    """Train the runs that are not trained yet, and save their tokens as `keys`.

    `keys` differ in their number of steps only. `on_steps` gets the number of steps that all runs
    have done together, first before any is done. `max_vectors` is the room of each slot.

    Raises:
        TrainingFailedError, SubjectError: A run failed; the others are saved.
    """
    missing = {run.id: run for run in untrained(store, keys, runs)}
    progress = _StepCounter(runs, missing, config.steps, on_steps)
    if not missing:
        return

    def save(id: str, artifact: Artifact, *, is_last: bool) -> None:
        _save_token(store, keys, missing[id], artifact, is_last=is_last)

    results = train(
        backbone,
        (
            # A generator, so that the images of a subject are read when a slot is free for it.
            domain.training_subject(run.subject, run.training_seed, config, id=run.id)
            for run in _interrupted_first(missing.values(), checkpoints)
        ),
        config,
        num_slots=num_slots,
        max_vectors=max_vectors,
        on_step=progress.on_step,
        snapshot_steps={key.steps for key in keys if key.steps is not None},
        on_snapshot=lambda subject, artifact: save(subject.id, artifact, is_last=False),
        checkpoints=checkpoints,
    )
    failed: TrainingResult | None = None
    for result in results:
        if result.artifact:
            save(result.subject.id, result.artifact, is_last=True)
            if checkpoints:
                checkpoints.remove(result.subject.id)
            progress.finish(result.subject.id)
        elif failed is None:
            failed = result
    # Raised only now, so that one failure does not cost the trainings beside it.
    if failed and failed.error:
        raise type(failed.error)(f"{failed.subject.id}: {failed.error}") from failed.error


class _StepCounter:
    """Counts the steps that all runs have done together, those of earlier starts included."""

    def __init__(
        self,
        runs: Sequence[SubjectTraining],
        missing: Container[str],
        steps: int,
        on_steps: Callable[[int], None],
    ) -> None:
        """Report the count at once; `missing` has the ids of the runs that are still to be done."""
        self._steps, self._on_steps = steps, on_steps
        self._done = {run.id: steps for run in runs if run.id not in missing}
        self._report()

    def on_step(self, metrics: Sequence[StepMetrics]) -> None:
        """Count the steps of a flush."""
        self._done.update({each.subject_id: each.step for each in metrics})
        self._report()

    def finish(self, id: str) -> None:
        """Count all steps of a run, of which early stopping may have left some out."""
        self._done[id] = self._steps
        self._report()

    def _report(self) -> None:
        self._on_steps(sum(self._done.values()))


def _save_token(
    store: EvaluationStore,
    keys: Sequence[TokenKey],
    run: SubjectTraining,
    artifact: Artifact,
    *,
    is_last: bool,
) -> None:
    """Save a token under each of the keys whose number of steps it has."""
    training = artifact.manifest.training
    assert training
    for key in keys:
        if key.steps == training.steps_done or (is_last and key.steps is None):
            store.save_token(artifact, key, run.subject, run.training_seed)


def _interrupted_first(
    runs: Iterable[SubjectTraining], checkpoints: CheckpointManager | None
) -> list[SubjectTraining]:
    """Return the runs in an order that gives interrupted ones the slots that they had."""
    if checkpoints is None:
        return list(runs)
    return sorted(runs, key=lambda run: not checkpoints.path(run.id).exists())
