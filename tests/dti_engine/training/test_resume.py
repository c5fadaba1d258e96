"""Checkpoints: whoever goes on from one learns what it would have learned without a stop."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_training import ENCODER, MakeSubject, learned
from torch import Tensor

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.recipes import standard_ti
from dti_engine.training.checkpoint import Checkpoint
from dti_engine.training.result import TrainingResult
from dti_engine.training.trainer import Trainer

CONFIG = TrainConfig(steps=10, batch_size=2, resolution=16, lr=0.04)
AVERAGED = CONFIG.changed(ema_decay=0.9, schedule="cosine", eval_every=4)
METHODS = {
    "dti": CONFIG,
    "dti-beta2": CONFIG.changed(beta2=0.9),
    "dti-averaged-cosine": AVERAGED,
    "ti-cosine": standard_ti(CONFIG).changed(schedule="cosine"),
}


def _origin(result: TrainingResult) -> dict[str, Any]:
    """Return the facts about the training in the manifest, without its duration."""
    assert result.artifact is not None
    assert result.artifact.manifest.training is not None
    return result.artifact.manifest.training.model_dump(exclude={"metrics": {"elapsed_s"}})


def _stored(trainer: Trainer) -> dict[str, Checkpoint]:
    """Return all checkpoints by id, each read back from the bytes of its file."""
    trainer.flush()
    loaded = [
        Checkpoint.from_bytes(trainer.checkpoint(slot).to_bytes())
        for slot, training_slot in enumerate(trainer.slots)
        if training_slot is not None
    ]
    return {each.header.provenance.subject: each for each in loaded}


def _run(trainer: Trainer, *, steps: int = 1000) -> dict[str, TrainingResult]:
    """Outcomes of so many steps, or until all have ended."""
    results: dict[str, TrainingResult] = {}
    while any(trainer.slots) and steps:
        results |= {each.subject.id: each for each in trainer.step()}
        steps -= 1
    return results


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 7])
def test_going_on_is_bit_for_bit_as_if_there_had_been_no_stop(
    tiny_backbone: Backbone, make_subject: MakeSubject, method: str, stop: int
) -> None:
    options: dict[str, Any] = {"num_slots": 3, "max_vectors": 3}
    subjects = [make_subject(1), make_subject(2, num_vectors=3), make_subject(3)]
    config = METHODS[method]
    through, before, after = (Trainer(tiny_backbone, config, **options) for _ in range(3))
    for subject in subjects:
        through.add(subject)
        before.add(subject)
    expected = _run(through)
    _run(before, steps=stop)
    checkpoints = _stored(before)
    for subject in reversed(subjects):  # each finds its slot, in whatever order they come
        after.add(subject, checkpoints[subject.id])
    results = _run(after)
    assert results.keys() == expected.keys()
    for name, result in results.items():
        assert torch.equal(learned(result), learned(expected[name]))
        assert result.metrics == expected[name].metrics
        assert _origin(result) == _origin(expected[name])


@pytest.mark.parametrize("method", METHODS)
def test_going_on_beside_other_neighbours_is_bit_for_bit_in_the_same_slot(
    tiny_backbone: Backbone, make_subject: MakeSubject, method: str
) -> None:
    through, before, after = (
        Trainer(tiny_backbone, METHODS[method], num_slots=2) for _ in range(3)
    )
    for trainer in (through, before):
        trainer.add(make_subject(1))
        trainer.add(make_subject(2))
    expected = _run(through)["subject-2"]
    _run(before, steps=4)
    after.add(make_subject(2), _stored(before)["subject-2"])
    _run(after, steps=2)
    after.add(make_subject(5))
    result = _run(after)["subject-2"]
    assert torch.equal(learned(result), learned(expected))
    assert result.metrics == expected.metrics


@pytest.mark.parametrize("method", METHODS)
def test_in_another_packing_the_draws_are_the_same_and_float64_agrees_to_1e_9(
    exact_backbone: Backbone, make_subject: MakeSubject, method: str
) -> None:
    config = METHODS[method].changed(steps=100)

    def after_20_steps(trainer: Trainer) -> tuple[Tensor, Any]:
        slot = next(i for i, each in enumerate(trainer.slots) if each and each.subject.seed)
        training_slot = trainer.slots[slot]
        assert training_slot is not None
        samples = training_slot.next_batch()
        _run(trainer, steps=20 - training_slot.step)
        return trainer.optimizers[ENCODER].learned()[training_slot.rows[ENCODER]].clone(), samples

    through, before = (Trainer(exact_backbone, config, num_slots=1) for _ in range(2))
    through.add(make_subject(7))
    before.add(make_subject(7))
    _run(through, steps=8)
    _run(before, steps=8)
    wide = Trainer(exact_backbone, config, num_slots=3, max_vectors=2)
    wide.add(make_subject(0))
    wide.add(make_subject(7), _stored(before)["subject-7"])  # its slot is taken
    (expected, drawn), (rows, redrawn) = after_20_steps(through), after_20_steps(wide)
    assert rows.dtype == torch.float64
    torch.testing.assert_close(rows, expected, rtol=0, atol=1e-9)
    assert torch.equal(drawn.noise, redrawn.noise)
    assert torch.equal(drawn.u, redrawn.u)


def test_steps_that_were_not_read_are_read_before_a_checkpoint(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    trainer = Trainer(tiny_backbone, CONFIG, num_slots=1, flush_every=10)
    trainer.add(make_subject(1))
    _run(trainer, steps=3)
    with pytest.raises(AssertionError):
        trainer.checkpoint(0)
    assert len(_stored(trainer)["subject-1"].metrics) == 3


def test_a_subject_with_its_own_config_resumes_despite_other_settings_of_the_run(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(1, config=AVERAGED)
    runs = (CONFIG.changed(steps=30), CONFIG, CONFIG.changed(lr=0.5, captions="style"))
    through, before, after = (Trainer(tiny_backbone, each, num_slots=1) for each in runs)
    for trainer in (through, before):
        trainer.add(subject)
    expected = _run(through)["subject-1"]
    _run(before, steps=5)
    after.add(subject, _stored(before)["subject-1"])
    result = _run(after)["subject-1"]
    assert torch.equal(learned(result), learned(expected))
    assert result.metrics == expected.metrics


def test_its_first_look_is_the_one_it_had_and_is_not_taken_anew(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    before, after = (Trainer(tiny_backbone, CONFIG, num_slots=1) for _ in range(2))
    before.add(make_subject(1))
    _run(before, steps=3)
    checkpoint = _stored(before)["subject-1"]
    assert before.slots[0] is not None
    assert checkpoint.header.first_fixed_loss == before.slots[0].first_fixed_loss
    header = checkpoint.header.model_copy(update={"first_fixed_loss": 0.1234567890123})
    after.add(make_subject(1), Checkpoint.from_bytes(replace(checkpoint, header=header).to_bytes()))
    assert after.slots[0] is not None
    assert after.slots[0].fixed_losses[0] == 0.1234567890123  # no look of now would give this
    assert after.checkpoint(0).header == header
    result = _run(after)["subject-1"]
    assert _origin(result)["first_fixed_loss"] == 0.1234567890123
