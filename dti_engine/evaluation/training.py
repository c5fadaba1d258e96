"""Trains the tokens that an evaluation lacks, and keeps each of them at several numbers of steps.

At a constant rate nothing in training depends on how many steps are still to come, so a token on
its way is what a shorter run would have ended with: one run gives the whole frontier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.evaluation.protocol import training_seed
from dti_engine.evaluation.rows import TokenKey
from dti_engine.evaluation.store import Store
from dti_engine.images.decode import load_images
from dti_engine.miniature.world.subjects import HeldOutSubject
from dti_engine.subject import Subject
from dti_engine.training.loop import train


@dataclass(frozen=True, slots=True)
class Run:
    """One token to learn."""

    subject: HeldOutSubject
    training_seed: int  # counted from 0

    @property
    def id(self) -> str:
        return f"{self.subject.name}/{self.training_seed}"


def train_missing(
    backbone: Backbone,
    store: Store,
    config: TrainConfig,
    keys: Sequence[TokenKey],
    runs: Sequence[Run],
    *,
    num_slots: int,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Train `runs` with the config and keep their tokens as `keys`, unless it is done.

    keys differ in steps only, and belong to the config. `on_step` gets the number of steps since it
    was called before, summed over runs; those of runs that were done before count at once.

    Raises: TrainingFailedError or SubjectError of a run that fails, once the others are kept.
    """

    def is_done(run: Run) -> bool:
        return all(store.token(key, run.subject, run.training_seed).exists() for key in keys)

    missing = {run.id: run for run in runs if not is_done(run)}
    on_step((len(runs) - len(missing)) * config.steps)

    def keep(subject: Subject, artifact: Artifact) -> None:
        run, steps = missing[subject.id], artifact.manifest.training
        for key in keys:
            if steps and key.steps == steps.steps_done:
                store.save_token(artifact, key, run.subject, run.training_seed)

    outcomes = train(
        backbone,
        (_subject(run, store, seed) for run in missing.values()),
        config,
        num_slots=num_slots,
        on_step=lambda reports: on_step(len(reports)),
        snapshot_steps={key.steps for key in keys},
        on_snapshot=keep,
    )
    failure = None
    for each in outcomes:
        if each.artifact:
            keep(each.subject, each.artifact)
        failure = failure or each.error
    if failure:
        raise failure


def _subject(run: Run, store: Store, seed: int) -> Subject:
    return Subject(
        id=run.id,
        images=load_images(store.references(run.subject)),
        placeholder=run.subject.placeholder,
        initializer=run.subject.class_word,
        seed=training_seed(seed, run.subject.name, run.training_seed),
    )
