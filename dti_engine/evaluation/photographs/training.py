"""Trains the tokens that an evaluation on photographs lacks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.evaluation.photographs.protocol import Protocol
from dti_engine.evaluation.photographs.store import Store
from dti_engine.evaluation.photographs.subjects import PhotographedSubject
from dti_engine.keepers import CHECKPOINT_EVERY
from dti_engine.outcomes import Outcome
from dti_engine.reports import SlotReport
from dti_engine.subjects import Subject
from dti_engine.trainer import train

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

    def on_step(reports: Sequence[SlotReport]) -> None:
        done.update({report.subject_id: report.step for report in reports})
        on_steps(sum(done.values()))

    keeper = store.keeper(name, every=CHECKPOINT_EVERY)
    # Those on their way first, each to the slot that it had.
    order = sorted(missing, key=lambda run: not keeper.path(run).exists())
    outcomes = train(
        backbone,
        (_subject(run, *missing[run], protocol, config) for run in order),
        config,
        num_slots=num_slots,
        max_vectors=max_vectors,
        on_step=on_step,
        keeper=keeper,
    )
    failed: Outcome | None = None
    for each in outcomes:
        if each.artifact:
            subject, seed = missing[each.subject.id]
            each.artifact.save(store.token(name, subject, seed))
            keeper.remove(each.subject.id)
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
        pictures=[replace(each, mask=None) for each in subject.pictures()],
        placeholder=subject.placeholder,
        initializer=subject.initializer,
        seed=protocol.training_seed(training_seed),
        num_vectors=subject.num_vectors,
        config=own,
    )
