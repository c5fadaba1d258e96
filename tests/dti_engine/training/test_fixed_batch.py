"""The loss on a fixed batch: what it is of, when it is taken, and that nobody else changes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.objectives import denoising_loss
from dti_engine.config import TrainConfig
from dti_engine.images.crops import MAX_CROPS, make_crops
from dti_engine.images.tensors import to_tensor
from dti_engine.optim import sphere
from dti_engine.text.captions import CAPTION_TEMPLATES
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.text.prompts import tokenize
from dti_engine.training.batch import draw_fixed_samples
from dti_engine.training.loop import Subject, TrainingResult, train
from dti_engine.training.trainer import Trainer

ENCODER = "text_encoder"
# Large steps: one of usual size moves the loss of the tiny model by little more than rounding.
CONFIG = TrainConfig(steps=5, batch_size=2, resolution=16, lr=0.5, ema_decay=0.9, eval_every=2)
MakeSubject = Callable[..., Subject]


def _fixed_loss(backbone: Backbone, subject: Subject, embeddings: Tensor) -> float:
    """Return the loss of a token alone, from its embeddings (n, d) and the subject's files."""
    seen = [make_crops(each, CONFIG.resolution, max_crops=MAX_CROPS) for each in subject.images]
    crops = [backbone.encode_images(to_tensor([view.image])).mean for each in seen for view in each]
    templates = CAPTION_TEMPLATES[CONFIG.captions]
    draws = draw_fixed_samples(
        subject.seed,
        size=2 * CONFIG.batch_size,
        num_crops=[len(each) for each in seen],
        num_captions=len(templates),
        latent_shape=tuple(crops[0].shape[1:]),
    )
    prompts = [templates[number].replace("{}", "<rex>") for number in draws.captions]
    spans = [{"<rex>": {ENCODER: range(len(embeddings))}}] * len(prompts)
    conditioning = backbone.encode_prompts(
        tokenize(prompts, backbone.text_encoders, spans), {ENCODER: embeddings}
    )
    latents = torch.cat([crops[view] for view in draws.crops])
    losses = denoising_loss(backbone, latents, draws.noise, draws.u, conditioning)
    return float(losses.mean())


def _fixed_losses(result: TrainingResult) -> list[float]:
    assert result.artifact, result.error
    return [each.fixed_loss for each in result.metrics]


def _of(results: list[TrainingResult], name: str) -> list[float]:
    (result,) = (each for each in results if each.subject.id == name)
    return _fixed_losses(result)


def test_the_fixed_loss_is_evaluated_at_the_start_every_few_steps_and_at_the_end(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(2, num_vectors=2)
    trainer = Trainer(tiny_backbone, CONFIG, num_slots=2)
    trainer.add(make_subject(1, config=CONFIG.changed(steps=3)))
    trainer.add(subject)
    training_slot, results, losses = trainer.slots[1], list[TrainingResult](), list[float]()
    assert training_slot is not None
    for _ in range(CONFIG.steps + 1):
        rows = trainer.optimizers[ENCODER].learned()[training_slot.rows[ENCODER]]
        losses.append(_fixed_loss(tiny_backbone, subject, rows))
        results += trainer.step() if training_slot.step < CONFIG.steps else []
    expected = [losses[step] for step in (0, 2, 2, 4, 5)]
    assert _of(results, "subject-2") == pytest.approx(expected, rel=5e-6)
    assert max(losses) - min(losses) > 1e-4


@pytest.mark.parametrize("eval_every", [1, 100])
def test_the_artifact_tells_that_of_its_token_and_that_of_the_token_before_training(
    tiny_backbone: Backbone, make_subject: MakeSubject, eval_every: int
) -> None:
    config = CONFIG.changed(eval_every=eval_every)
    (result,) = train(tiny_backbone, [make_subject(2)], config, num_slots=1)
    assert result.artifact is not None
    training, token = result.artifact.manifest.training, result.artifact.token
    assert training is not None
    encoder = tiny_backbone.text_encoders[ENCODER]
    initial = vocabulary_magnitude(encoder) * sphere.normalize(initializer_rows(encoder, "dog"))
    for reported, rows in (
        (training.first_fixed_loss, initial),
        (training.metrics["fixed_loss"], token.embeddings[ENCODER]),
    ):
        expected = _fixed_loss(tiny_backbone, make_subject(2), rows)
        assert reported == pytest.approx(expected, rel=5e-6)
    assert abs(training.first_fixed_loss - training.metrics["fixed_loss"]) > 5e-5


def test_no_neighbour_changes_it_by_a_bit_at_the_same_shape(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    config = CONFIG.changed(eval_every=1)
    beside = [make_subject(1), make_subject(3, config=config.changed(steps=2, lr=0.5))]
    queues = [
        [make_subject(4), make_subject(2)],
        [beside[0], make_subject(2), beside[1], make_subject(5)],
        [beside[1], make_subject(2), beside[0]],
    ]
    first, *others = (
        _of(list(train(tiny_backbone, queue, config, num_slots=3)), "subject-2") for queue in queues
    )
    assert all(each == first for each in others)
    assert max(first) - min(first) > 1e-4


def test_it_is_the_same_for_the_same_token_in_every_slot(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subjects = [make_subject(7, id=f"{slot}") for slot in range(4)]
    results = train(tiny_backbone, subjects, CONFIG, num_slots=4)
    assert len({_fixed_losses(each)[0] for each in results}) == 1  # before the first step


def test_looking_more_often_changes_no_token(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    configs = [CONFIG.changed(eval_every=every) for every in (1, 100)]
    often, rarely = (
        next(train(tiny_backbone, [make_subject(1)], each, num_slots=1)) for each in configs
    )
    assert often.artifact is not None
    assert rarely.artifact is not None
    embeddings = (each.token.embeddings[ENCODER] for each in (often.artifact, rarely.artifact))
    assert torch.equal(*embeddings)
    *before, last = _fixed_losses(rarely)
    assert len(set(before)) == 1
    assert last == _fixed_losses(often)[-1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_fixed_loss_falls_for_every_prediction_type(
    make_checkpoint: Callable[..., Path], make_subject: MakeSubject, prediction_type: str
) -> None:
    backbone = load_backbone(make_checkpoint(prediction_type))
    config = CONFIG.changed(steps=30, batch_size=16, lr=0.1, kappa=0.0, schedule="cosine")
    subjects = [make_subject(number) for number in (1, 2, 3)]
    losses = [_fixed_losses(each) for each in train(backbone, subjects, config, num_slots=3)]
    assert sum(each[-1] for each in losses) < sum(each[0] for each in losses)
