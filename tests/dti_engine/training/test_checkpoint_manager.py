"""Runs that are stopped or killed, and go on from the folder of their checkpoints."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import CheckpointError, ConfigurationError, OutputError
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.loop import Subject, TrainingResult, train

CONFIG = TrainConfig(
    steps=7,
    batch_size=2,
    resolution=16,
    lr=0.04,
    beta2=0.9,
    schedule="cosine",
    ema_decay=0.8,
    eval_every=3,
)
NUM_SUBJECTS = 5
MakeSubject = Callable[..., Subject]


class _Killed(Exception):
    """The process is gone, in effect."""


@pytest.fixture
def subjects(make_subject: MakeSubject) -> list[Subject]:
    return [make_subject(number, num_vectors=1 + number % 2) for number in range(NUM_SUBJECTS)]


@pytest.fixture
def expected(tiny_backbone: Backbone, subjects: list[Subject]) -> dict[str, TrainingResult]:
    """Outcomes of a run without a stop."""
    results = train(tiny_backbone, subjects, CONFIG, num_slots=2)
    return {each.subject.id: each for each in results}


def _assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.artifact
    assert expected.artifact
    for name, rows in expected.artifact.token.embeddings.items():
        assert rows.equal(result.artifact.token.embeddings[name])
    assert result.metrics == expected.metrics


def _go_on(
    backbone: Backbone,
    subjects: list[Subject],
    checkpoints: CheckpointManager,
    done: dict[str, TrainingResult],
    on_step: Callable[[], None],
) -> None:
    """Run the subjects that are not done, as `dti train --resume` does."""
    missing = [each for each in subjects if each.id not in done]
    missing.sort(key=lambda each: not checkpoints.path(each.id).exists())
    results = train(
        backbone, missing, CONFIG, num_slots=2, on_step=lambda _: on_step(), checkpoints=checkpoints
    )
    for result in results:
        done[result.subject.id] = result
        checkpoints.remove(result.subject.id)


@pytest.mark.parametrize("stop_after", [1, 2, 7, 8, 12, 18])
def test_a_stopped_run_resumes_bit_for_bit_and_refills_its_slots_alike(
    tiny_backbone: Backbone,
    subjects: list[Subject],
    expected: dict[str, TrainingResult],
    tmp_path: Path,
    stop_after: int,
) -> None:
    done: dict[str, TrainingResult] = {}
    checkpoints, steps = (
        CheckpointManager(tmp_path / "checkpoints", every=100),
        iter(range(1, 1000)),
    )
    _go_on(
        tiny_backbone,
        subjects,
        checkpoints,
        done,
        lambda: checkpoints.request_stop() if next(steps) == stop_after else None,
    )
    assert next(steps) == stop_after + 1
    rounds, in_round = divmod(stop_after, CONFIG.steps)
    assert len(done) == 2 * rounds
    unfinished = [each.id for each in subjects[2 * rounds :][:2]] if in_round else []
    assert checkpoints.saved_steps == dict.fromkeys(unfinished, in_round)
    after = CheckpointManager(tmp_path / "checkpoints", every=100)
    _go_on(tiny_backbone, subjects, after, done, lambda: None)
    assert done.keys() == expected.keys()
    for name, result in done.items():
        _assert_same(result, expected[name])
    assert not checkpoints.folder.exists()


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(
    tiny_backbone: Backbone,
    subjects: list[Subject],
    expected: dict[str, TrainingResult],
    tmp_path: Path,
) -> None:
    done: dict[str, TrainingResult] = {}
    rng, num_killed = random.Random(0), 0

    def kill_at(steps: Iterator[int]) -> None:
        if next(steps) == 0:
            raise _Killed

    while len(done) < NUM_SUBJECTS:
        countdown = iter(range(rng.randint(2, 6), -1000, -1))
        checkpoints = CheckpointManager(tmp_path, every=2)
        try:
            _go_on(tiny_backbone, subjects, checkpoints, done, lambda left=countdown: kill_at(left))
        except _Killed:
            num_killed += 1
    assert num_killed >= 3
    for name, result in done.items():
        _assert_same(result, expected[name])


def test_a_checkpoint_that_cannot_be_used_ends_its_subject_alone(
    tiny_backbone: Backbone, subjects: list[Subject], tmp_path: Path
) -> None:
    checkpoints = CheckpointManager(tmp_path, every=100)
    checkpoints.path("subject-1").write_bytes(b"damaged")
    results = train(tiny_backbone, subjects[:3], CONFIG, num_slots=2, checkpoints=checkpoints)
    ended = {each.subject.id: each for each in results}
    assert isinstance(ended["subject-1"].error, CheckpointError)
    assert ended["subject-0"].artifact
    assert ended["subject-2"].artifact
    assert checkpoints.path("subject-1").read_bytes() == b"damaged"


def test_a_checkpoint_that_cannot_be_written_is_reported_and_training_continues(
    tiny_backbone: Backbone, subjects: list[Subject], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    warnings: list[str] = []
    checkpoints = CheckpointManager(
        tmp_path / "file", every=3, on_save_error=lambda name, _: warnings.append(name)
    )
    (result,) = train(tiny_backbone, subjects[:1], CONFIG, num_slots=1, checkpoints=checkpoints)
    assert isinstance(result.artifact, Artifact)
    assert warnings == ["subject-0"] * 2
    with pytest.raises(OutputError, match="cannot write"):
        list(
            train(
                tiny_backbone,
                subjects[:1],
                CONFIG,
                num_slots=1,
                checkpoints=CheckpointManager(tmp_path / "file", every=3),
            )
        )


def test_a_stop_before_the_first_step_takes_no_more_subjects(
    tiny_backbone: Backbone, subjects: list[Subject], tmp_path: Path
) -> None:
    checkpoints = CheckpointManager(tmp_path / "checkpoints", every=1)

    def queue() -> Iterator[Subject]:
        checkpoints.request_stop()
        yield subjects[0]
        raise AssertionError("nobody asks for the next one")

    assert list(train(tiny_backbone, queue(), CONFIG, num_slots=2, checkpoints=checkpoints)) == []
    assert checkpoints.saved_steps == {}


def test_checkpoints_less_than_a_step_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be >= 1, got 0"):
        CheckpointManager(tmp_path, every=0)
