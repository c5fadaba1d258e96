"""Trains the tokens that an evaluation lacks, and keeps each of them at several numbers of steps.

Nothing in training depends on how many steps are still to come, so a token on its way is what a
shorter run would have ended with: one run gives the whole frontier.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.evaluation.rows import TokenKey
from dti_engine.evaluation.seeds import training_seed
from dti_engine.evaluation.store import Store
from dti_engine.images import load_pictures
from dti_engine.miniature.world.subjects import HeldOutSubject
from dti_engine.outcomes import Outcome, outcome
from dti_engine.slots import Subject
from dti_engine.trainer import Trainer


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

    Raises: TrainingFailedError or SubjectError of the first run that fails.
    """

    def is_done(run: Run) -> bool:
        return all(store.token(key, run.subject, run.training_seed).exists() for key in keys)

    missing = {run.id: run for run in runs if not is_done(run)}
    on_step((len(runs) - len(missing)) * config.steps)
    # A report each step: only what was reported is part of an outcome.
    trainer = Trainer(backbone, config, num_slots=num_slots, report_every=1)
    queue = (_subject(run, store, seed) for run in missing.values())
    while True:
        while None in trainer.occupants and (subject := next(queue, None)) is not None:
            trainer.seat(subject)
        num_running = sum(each is not None for each in trainer.occupants)
        if not num_running:
            return
        outcomes = trainer.step()
        on_step(num_running)
        outcomes += _on_their_way(trainer, backbone, config, {key.steps for key in keys})
        for each in outcomes:
            if each.artifact:
                run, last = missing[each.subject.id], each.reports[-1]
                for key in keys:
                    if key.steps == last.step:
                        store.save_token(each.artifact, key, run.subject, run.training_seed)
        # Only now: its neighbours' work would be lost.
        for each in outcomes:
            if each.error:
                raise each.error


def _on_their_way(
    trainer: Trainer, backbone: Backbone, config: TrainConfig, steps: set[int]
) -> Iterator[Outcome]:
    """Outcomes of those that have had one of these numbers of steps, as if they had ended there.

    Their manifests are those of runs of that length, which would give the same tokens.
    """
    tables = {name: learner.embeddings() for name, learner in trainer.learners.items()}
    for occupant in trainer.occupants:
        if occupant is not None and occupant.step in steps:
            ended = outcome(occupant, tables, backbone, config.changed(steps=occupant.step))
            assert ended
            yield ended


def _subject(run: Run, store: Store, seed: int) -> Subject:
    return Subject(
        id=run.id,
        pictures=load_pictures(store.references(run.subject)),
        placeholder=run.subject.placeholder,
        initializer=run.subject.class_word,
        seed=training_seed(seed, run.subject.name, run.training_seed),
    )
