"""Packed steps: a subject learns the same in every packing, by a config of its own too."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from PIL import Image
from small_training import CONFIG, ENCODER, SHORT, MakeSubject, by_id, learned
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.optim import sphere
from dti_engine.recipes import standard_ti
from dti_engine.training.loop import Subject, TrainingResult, train
from dti_engine.training.slot import TrainingSlot
from dti_engine.training.trainer import Trainer


def _figures(artifact: Artifact | None) -> dict[str, float]:
    """Return the manifest's metrics of the last step, without the time."""
    assert artifact is not None
    assert artifact.manifest.training is not None
    figures = dict(artifact.manifest.training.metrics)
    del figures["elapsed_s"]
    return figures


def _angle(a: Tensor, b: Tensor) -> float:
    return float(sphere.geodesic_distance(sphere.normalize(a), sphere.normalize(b)).max())


def _rows(trainer: Trainer, slot: int) -> Tensor:
    training_slot = trainer.slots[slot]
    assert training_slot is not None
    return trainer.optimizers[ENCODER].learned()[training_slot.rows[ENCODER]].clone()


def _masked(subject: Subject) -> Subject:
    """Return the subject with captions, and masks whose left part is black."""
    subject_images = []
    for subject_image in subject.images:
        mask = Image.new("L", subject_image.image.size, 255)
        mask.paste(0, (0, 0, subject_image.image.width // 2, subject_image.image.height))
        subject_images.append(replace(subject_image, mask=mask, caption="a {} on a beach"))
    return replace(subject, images=subject_images)


def test_a_neighbour_never_changes_a_result_at_the_same_shape(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    results = []
    for numbers in ([1, 2, 3], [4, 2, 5], [6, 2]):
        subjects = [make_subject(number) for number in numbers]
        ended = by_id(train(tiny_backbone, subjects, SHORT, num_slots=3))
        results.append(ended["subject-2"])
    for other in results[1:]:
        assert torch.equal(learned(results[0]), learned(other))
        assert results[0].metrics == other.metrics


def test_a_neighbour_with_masks_and_captions_changes_no_result_at_the_same_shape(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    neighbours = [make_subject(1), _masked(make_subject(1))]
    plain, beside = (
        by_id(train(tiny_backbone, [each, make_subject(2)], SHORT, num_slots=2))
        for each in neighbours
    )
    assert torch.equal(learned(plain["subject-2"]), learned(beside["subject-2"]))
    assert plain["subject-2"].metrics == beside["subject-2"].metrics
    assert not torch.equal(learned(plain["subject-1"]), learned(beside["subject-1"]))


@pytest.mark.parametrize("is_masked", [False, True])
def test_packings_agree_to_1e_9_after_20_steps_in_float64(
    exact_backbone: Backbone, make_subject: MakeSubject, is_masked: bool
) -> None:
    def rows_after_20_steps(*subjects: Subject) -> Tensor:
        trainer = Trainer(exact_backbone, CONFIG.changed(steps=100), num_slots=len(subjects))
        for subject in subjects:
            trainer.add(subject)
        for _ in range(20):
            trainer.step()
        return _rows(trainer, len(subjects) - 1)

    subject = _masked(make_subject(7)) if is_masked else make_subject(7)
    neighbours = [make_subject(number) for number in (1, 2, 3)]
    alone, packed = rows_after_20_steps(subject), rows_after_20_steps(*neighbours, subject)
    assert alone.dtype == torch.float64
    torch.testing.assert_close(alone, packed, rtol=0, atol=1e-9)


def test_packings_differ_by_less_than_a_tenth_of_the_difference_of_seeds_in_float32(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(7)
    same_but_seed = make_subject(8, images=subject.images)
    alone, other = (
        next(train(tiny_backbone, [each], CONFIG, num_slots=1)) for each in (subject, same_but_seed)
    )
    neighbours = [make_subject(number) for number in (1, 2, 3)]
    packed = by_id(train(tiny_backbone, [*neighbours, subject], CONFIG, num_slots=4))
    between_packings = _angle(learned(alone), learned(packed["subject-7"]))
    assert between_packings < _angle(learned(alone), learned(other)) / 10


def test_a_removed_slot_is_free_and_its_neighbour_continues_undisturbed(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    def neighbour(*, of_vacated: bool) -> TrainingResult:
        trainer = Trainer(tiny_backbone, SHORT, num_slots=2)
        trainer.add(make_subject(1))
        trainer.add(make_subject(2))
        trainer.step()
        if of_vacated:
            trainer.remove(0)
            assert trainer.slots[0] is None
        results = [result for _ in range(3) for result in trainer.step()]
        assert trainer.slots == [None, None]
        return by_id(results)["subject-2"]

    after, without = neighbour(of_vacated=True), neighbour(of_vacated=False)
    assert torch.equal(learned(after), learned(without))


@pytest.mark.parametrize("options", [{"num_slots": 0}, {"num_slots": 1, "max_vectors": 0}])
def test_a_packing_without_room_is_refused(
    tiny_backbone: Backbone, options: dict[str, int]
) -> None:
    with pytest.raises(ConfigurationError, match="must be >= 1"):
        train(tiny_backbone, [], SHORT, **options)


# Configs of their own

OWN = {
    "dti": [
        SHORT.changed(lr=0.01, kappa=0.01, steps=6, eval_every=2),
        SHORT.changed(steps=3, schedule="cosine", ema_decay=0.8, magnitude=0.7),
        SHORT.changed(captions="style", timesteps="stratified", magnitude="initializer"),
    ],
    "ti": [
        standard_ti(SHORT).changed(lr=0.01, weight_decay=0.5, steps=6, eval_every=2),
        standard_ti(SHORT).changed(steps=3, schedule="cosine", magnitude=0.7),
        standard_ti(SHORT).changed(captions="style", timesteps="stratified"),
    ],
}
OWN["dti-beta2"] = [each.changed(beta2=0.9) for each in OWN["dti"]]


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("num_slots", [1, 3])  # one after the other in the same slot, or together
def test_a_subject_with_its_own_config_learns_the_same_as_where_all_have_it(
    tiny_backbone: Backbone, make_subject: MakeSubject, method: str, num_slots: int
) -> None:
    configs, plain = OWN[method], [make_subject(number) for number in (1, 2, 3)]
    own = [replace(each, config=config) for each, config in zip(plain, configs, strict=True)]
    run = configs[0].changed(lr=0.5, steps=9)
    mixed = by_id(train(tiny_backbone, own, run, num_slots=num_slots))
    for subject, config in zip(plain, configs, strict=True):
        alike = by_id(train(tiny_backbone, plain, config, num_slots=num_slots))
        result, expected = mixed[subject.id], alike[subject.id]
        assert torch.equal(learned(result), learned(expected))
        assert result.metrics == expected.metrics
        assert len(result.metrics) == config.steps


def test_no_image_is_in_memory_once_its_subject_has_a_slot(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = _masked(make_subject(1))
    images = [weakref.ref(each.image) for each in subject.images]
    images += [weakref.ref(each.mask) for each in subject.images if each.mask]
    names = [each.name for each in subject.images]
    trainer = Trainer(tiny_backbone, SHORT, num_slots=2)
    trainer.add(subject)
    del subject
    gc.collect()
    assert len(images) > len(names)
    assert [each() for each in images] == [None] * len(images)
    results = [result for _ in range(SHORT.steps) for result in trainer.step()]
    (artifact,) = (each.artifact for each in results)
    assert artifact is not None
    assert artifact.manifest.training is not None
    assert list(artifact.manifest.training.images) == names


# Who is told what


def test_the_caller_is_notified_of_each_subject_and_its_slot(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    events: list[tuple[int, str, int, int]] = []

    def note(slot: int, training_slot: TrainingSlot) -> None:
        rows = training_slot.rows[ENCODER]
        events.append((slot, training_slot.subject.id, rows.start, training_slot.step))

    short = SHORT.changed(steps=2)
    queue = [make_subject(1), make_subject(2, config=short), make_subject(3, images=[])]
    queue += [make_subject(4), make_subject(5)]
    list(train(tiny_backbone, queue, SHORT, num_slots=2, max_vectors=3, on_added=note))
    assert events == [
        (0, "subject-1", 0, 0),
        (1, "subject-2", 3, 0),
        (1, "subject-4", 3, 0),  # in the middle of subject 1; subject 3 never came to sit
        (0, "subject-5", 0, 0),
    ]


def test_the_caller_is_notified_of_the_steps_of_a_resumed_subject(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    events: list[tuple[int, int]] = []

    def note(slot: int, training_slot: TrainingSlot) -> None:
        events.append((slot, training_slot.step))

    before, after = (Trainer(tiny_backbone, SHORT, num_slots=2, on_added=note) for _ in range(2))
    before.add(make_subject(1))
    before.add(make_subject(2))
    before.step()
    after.add(make_subject(2), before.checkpoint(1))
    assert events == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("flush_every", [1, 4, 100])
def test_snapshots_equal_the_results_of_shorter_runs(
    tiny_backbone: Backbone, make_subject: MakeSubject, flush_every: int
) -> None:
    config = CONFIG.changed(steps=7, ema_decay=0.8)
    subjects = [make_subject(1), make_subject(2, num_vectors=2), make_subject(3)]
    snapshots: dict[tuple[str, int], Artifact] = {}

    def keep(subject: Subject, artifact: Artifact) -> None:
        training = artifact.manifest.training
        assert training is not None
        assert (training.stop_reason, training.config) == ("kept", config)
        snapshots[subject.id, training.steps_done] = artifact

    ended = by_id(
        train(
            tiny_backbone,
            subjects,
            config,
            num_slots=2,
            flush_every=flush_every,
            snapshot_steps={2, 3, 7, 9},
            on_snapshot=keep,
        )
    )
    assert snapshots.keys() == {(each.id, steps) for each in subjects for steps in (2, 3)}
    for steps in (2, 3, 7):
        shorter = train(tiny_backbone, subjects, config.changed(steps=steps), num_slots=2)
        for name, result in by_id(shorter).items():
            of_longer = ended[name].artifact if steps == 7 else snapshots[name, steps]
            assert of_longer is not None
            assert torch.equal(of_longer.token.embeddings[ENCODER], learned(result))
            assert _figures(of_longer) == _figures(result.artifact)


def test_each_is_kept_at_its_own_steps_and_keeping_changes_nothing(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    snapshots: list[tuple[str, int]] = []

    def keep(subject: Subject, artifact: Artifact) -> None:
        assert artifact.manifest.training is not None
        snapshots.append((subject.id, artifact.manifest.training.steps_done))

    subjects = [make_subject(1), make_subject(2, config=SHORT.changed(steps=2)), make_subject(3)]
    plain = by_id(train(tiny_backbone, subjects, SHORT, num_slots=2))
    results = by_id(
        train(tiny_backbone, subjects, SHORT, num_slots=2, snapshot_steps=[1, 2], on_snapshot=keep)
    )
    assert snapshots == [
        ("subject-1", 1),
        ("subject-2", 1),
        ("subject-1", 2),
        ("subject-3", 1),  # in the third step of the batch
        ("subject-3", 2),
    ]
    for name, result in results.items():
        assert torch.equal(learned(result), learned(plain[name]))
