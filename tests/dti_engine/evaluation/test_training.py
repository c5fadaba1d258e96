"""Tokens on their way are those of shorter runs, and nothing is trained twice."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone, Latents
from dti_engine.errors import TrainingFailedError
from dti_engine.evaluation.miniature import MiniatureDomain
from dti_engine.evaluation.protocol import MiniatureProtocol, training_seed
from dti_engine.evaluation.rows import TokenKey
from dti_engine.evaluation.store import EvaluationStore
from dti_engine.evaluation.training import SubjectTraining, train_missing
from dti_engine.images.decode import load_images
from dti_engine.miniature.scorer import Scorer
from dti_engine.miniature.world.subjects import held_out_subjects
from dti_engine.training.loop import Subject, train
from dti_engine.training.trainer import Trainer

SUBJECTS = held_out_subjects("evaluation")[:3]
NAMES = [subject.name for subject in SUBJECTS]
RUNS = [SubjectTraining(name, 0) for name in NAMES]


@pytest.fixture
def store(tmp_path: Path) -> EvaluationStore:
    return EvaluationStore(tmp_path, {})


@pytest.fixture
def domain(
    evaluation_backbone: Backbone, evaluation_scorer: Scorer, store: EvaluationStore
) -> MiniatureDomain:
    domain = MiniatureDomain(evaluation_backbone, evaluation_scorer, SUBJECTS, store, seed=7)
    domain.draw_references()
    return domain


@pytest.fixture
def train_some(
    evaluation_backbone: Backbone,
    tiny_protocol: MiniatureProtocol,
    store: EvaluationStore,
    domain: MiniatureDomain,
) -> Callable[..., list[int]]:
    """train_some(method, runs, steps) trains what is missing; returns what `on_steps` got."""

    def train_some(
        method: str = "dti", runs: list[SubjectTraining] = RUNS, steps: tuple[int, ...] = (3, 5)
    ):
        counted: list[int] = []
        config = tiny_protocol.settings[method][0].changed(steps=max(steps))
        keys = [TokenKey(f"{method}-0", each) for each in steps]
        train_missing(
            evaluation_backbone,
            domain,
            store,
            keys,
            config,
            runs,
            num_slots=2,
            on_steps=counted.append,
        )
        return counted

    return train_some


@pytest.mark.parametrize("method", ["dti", "ti"])
def test_a_token_on_its_way_is_that_of_a_shorter_run(
    method: str,
    train_some: Callable[..., list[int]],
    store: EvaluationStore,
    evaluation_backbone: Backbone,
    tiny_protocol: MiniatureProtocol,
) -> None:
    train_some(method)
    whole = tiny_protocol.settings[method][0].changed(steps=5)
    subjects = [
        Subject(
            each.name,
            load_images(store.references(each.name)),
            each.placeholder,
            each.class_word,
            training_seed(7, each.name, 0),
        )
        for each in SUBJECTS
    ]
    for ended in train(evaluation_backbone, subjects, whole.changed(steps=3), num_slots=2):
        assert ended.artifact
        snapshot = store.load_token(TokenKey(f"{method}-0", 3), ended.subject.id, 0)
        expected = ended.artifact.token.embeddings["text_encoder"]
        assert torch.equal(snapshot.token.embeddings["text_encoder"], expected)
        record, of_shorter_run = snapshot.manifest.training, ended.artifact.manifest.training
        assert record
        assert of_shorter_run
        assert (record.steps_done, record.stop_reason, record.config) == (3, "kept", whole)
        assert (record.seed, record.images) == (of_shorter_run.seed, of_shorter_run.images)


def test_seeds_of_training_give_different_tokens(
    train_some: Callable[..., list[int]], store: EvaluationStore
) -> None:
    train_some(runs=[SubjectTraining(NAMES[0], 0), SubjectTraining(NAMES[0], 1)])
    first, second = (store.load_token(TokenKey("dti-0", 5), NAMES[0], seed) for seed in (0, 1))
    assert not torch.equal(
        first.token.embeddings["text_encoder"], second.token.embeddings["text_encoder"]
    )


def test_subjects_draw_apart_and_methods_alike(
    train_some: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    original_add = Trainer.add

    def noting_seat(trainer: Trainer, subject: Subject, checkpoint: None) -> None:
        seeds.append(subject.seed)
        original_add(trainer, subject, checkpoint)

    monkeypatch.setattr(Trainer, "add", noting_seat)
    for method in ("dti", "ti"):
        train_some(method, steps=(1,))
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == len(SUBJECTS) == 3


def test_finished_tokens_are_not_trained_again_and_count_at_once(
    train_some: Callable[..., list[int]], store: EvaluationStore
) -> None:
    assert train_some(runs=RUNS[:2])[-1] == 2 * 5
    files = sorted(store.folder.glob("tokens/**/*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 2 * 2
    counted = train_some()
    assert counted[0] == 2 * 5
    assert counted[-1] == 3 * 5
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert store.token(TokenKey("dti-0", 5), NAMES[2], 0).exists()


def test_a_run_that_was_stopped_on_its_way_starts_again(
    train_some: Callable[..., list[int]], store: EvaluationStore
) -> None:
    train_some(runs=RUNS[:1])
    last, on_the_way = (store.token(TokenKey("dti-0", steps), NAMES[0], 0) for steps in (5, 3))
    expected = Artifact.load(last).token.embeddings["text_encoder"]
    last.unlink()
    assert on_the_way.exists()
    assert train_some(runs=RUNS[:1])[0] == 0
    assert torch.equal(Artifact.load(last).token.embeddings["text_encoder"], expected)


@pytest.fixture
def car_cannot_be_learned(evaluation_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the latents of the first subject's photos not a number."""
    encode_images, num_photos = evaluation_backbone.encode_images, 5
    calls = itertools.count()

    def broken(pixels: torch.Tensor) -> Latents:
        found = encode_images(pixels)
        return Latents(found.mean * math.nan, found.std) if next(calls) < num_photos else found

    monkeypatch.setattr(evaluation_backbone, "encode_images", broken)


@pytest.mark.usefixtures("car_cannot_be_learned")
def test_a_subject_that_cannot_be_learned_ends_the_evaluation_by_name(
    train_some: Callable[..., list[int]],
) -> None:
    with pytest.raises(TrainingFailedError, match="'car-0-training0' failed at step 1"):
        train_some()


@pytest.mark.usefixtures("car_cannot_be_learned")
def test_all_others_are_trained_and_kept_though_one_fails(
    train_some: Callable[..., list[int]], store: EvaluationStore
) -> None:
    with pytest.raises(TrainingFailedError):
        train_some()
    for steps in (3, 5):
        snapshot = [store.token(TokenKey("dti-0", steps), name, 0).exists() for name in NAMES]
        assert snapshot == [False, True, True]
