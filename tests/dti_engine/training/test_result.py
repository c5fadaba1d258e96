"""Training ends with a complete artifact, or with an error that affects no other subject."""

import gc
import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_training import CONFIG, SHORT, LoadParts, MakeSubject, by_id, learned
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Latents
from dti_engine.errors import (
    CheckpointError,
    InvalidImageError,
    SubjectError,
    TokenError,
    TrainingFailedError,
)
from dti_engine.images.decode import SubjectImage
from dti_engine.recipes import standard_ti
from dti_engine.training.batch import draw_samples
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.loop import train
from dti_engine.training.trainer import Trainer

BLACK = SubjectImage("black.png", Image.new("RGB", (16, 16)), "0" * 64, (16, 16))


def test_the_artifact_says_how_it_came_about(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(1)
    (result,) = train(tiny_backbone, [subject], SHORT, num_slots=2)
    assert result.artifact is not None
    manifest = result.artifact.manifest
    training = manifest.training
    assert training is not None
    assert (manifest.placeholder, training.initializer, training.seed) == ("<rex>", "dog", 1)
    assert manifest.model == tiny_backbone.name
    assert manifest.model_fingerprint == tiny_backbone.fingerprint
    assert training.config == SHORT
    assert (training.steps_done, training.stop_reason) == (4, "budget")
    assert training.images == {
        subject_image.name: subject_image.sha256 for subject_image in subject.images
    }
    assert training.pooling is None
    assert not tiny_backbone.pools
    assert training.metrics == result.metrics[-1].values()
    assert {"loss", "fixed_loss", "prior_angle_rad"} <= training.metrics.keys()


def test_the_artifact_tells_the_config_of_its_subject_not_of_the_run(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    own = SHORT.changed(lr=0.01, steps=3)
    (result,) = train(tiny_backbone, [make_subject(1, config=own)], SHORT, num_slots=1)
    assert result.artifact is not None
    training = result.artifact.manifest.training
    assert training is not None
    assert (training.config, training.steps_done) == (own, 3)


class _OverflowsOnBlack:
    """The tiny backbone with an autoencoder whose latents of a black image are NaN."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_images(self, pixels: Tensor) -> Latents:
        latents = self._backbone.encode_images(pixels)
        is_black = (pixels == -1).flatten(1).all(dim=1)
        return Latents(
            latents.mean.masked_fill(is_black[:, None, None, None], math.nan), latents.std
        )


def test_a_prior_that_lets_nothing_move_is_a_failure(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    config = SHORT.changed(kappa=1e9)
    (result,) = train(tiny_backbone, [make_subject(1)], config, num_slots=1)
    assert isinstance(result.error, TrainingFailedError)
    assert "lower kappa" in str(result.error)


@pytest.mark.parametrize("method", ["dti", "ti"])
def test_a_subject_that_fails_ends_by_name_and_its_neighbours_do_not_notice(
    tiny_backbone: Backbone, make_subject: MakeSubject, method: str
) -> None:
    config = SHORT if method == "dti" else standard_ti(SHORT)
    backbone = _OverflowsOnBlack(tiny_backbone)
    good = [make_subject(number) for number in (1, 2, 3)]
    bad = make_subject(2, images=[BLACK])
    healthy = by_id(train(backbone, good, config, num_slots=3))
    mixed = by_id(train(backbone, [good[0], bad, good[2]], config, num_slots=3))
    for name in ("subject-1", "subject-3"):
        assert torch.equal(learned(healthy[name]), learned(mixed[name]))
    failed = mixed["subject-2"]
    assert failed.artifact is None
    assert isinstance(failed.error, TrainingFailedError)
    assert str(failed.error).startswith(
        "subject 'subject-2' failed at step 1 of 4: its loss is nan"
    )
    assert len(failed.metrics) == 1


def test_the_step_that_failed_is_named_exactly_though_reports_come_late(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    # A seed whose fixed batch does not show the black image: that would fail at once.
    subject = make_subject(1, seed=2, images=[*make_subject(1).images * 3, BLACK])
    trainer = Trainer(_OverflowsOnBlack(tiny_backbone), CONFIG, num_slots=1, flush_every=50)
    trainer.add(subject)
    (training_slot,) = trainer.slots
    assert training_slot is not None
    assert training_slot.fixed_batch.latents.isfinite().all()
    num_crops = training_slot.prepared.num_crops
    first = next(
        step
        for step in range(CONFIG.steps)
        if sum(num_crops) - 1 in _views(subject.seed, step, num_crops)
    )
    assert first > 0
    (result,) = [result for _ in range(CONFIG.steps) for result in trainer.step()]
    assert f"failed at step {first + 1} of 20" in str(result.error)
    assert len(result.metrics) == first + 1


def _views(seed: int, step: int, num_crops: Any) -> list[int]:
    shape: dict[str, Any] = {"latent_shape": (4, 8, 8), "timesteps": "uniform", "num_captions": 1}
    return draw_samples(seed, step, batch_size=2, num_crops=num_crops, **shape).crops.tolist()


def test_a_failed_subject_leaves_its_slot_to_the_next(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subjects = [make_subject(1, images=[BLACK]), make_subject(2), make_subject(3)]
    results = train(_OverflowsOnBlack(tiny_backbone), subjects, SHORT, num_slots=1)
    assert [result.artifact is None for result in results] == [True, False, False]


def test_a_gradient_of_exactly_zero_is_a_failure_not_a_step_along_the_prior(
    load_parts: LoadParts, make_subject: MakeSubject
) -> None:
    parts = load_parts(torch.float32)
    for name, parameter in parts.unet.named_parameters():
        if "attn2.to_out" in name:  # what the UNet has read of the text is thrown away
            torch.nn.init.zeros_(parameter)
    (result,) = train(parts.assembled(), [make_subject(1)], SHORT, num_slots=1)
    assert isinstance(result.error, TrainingFailedError)
    assert "'subject-1' failed at step 1 of 4" in str(result.error)
    assert "exactly zero" in str(result.error)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": []}, InvalidImageError, "no images"),
        ({"placeholder": "Rex"}, TokenError, "placeholder 'Rex'"),
        ({"initializer": " "}, TokenError, "initializer ' '"),
        ({"initializer": "small red dog"}, TokenError, "max_vectors"),
        ({"config": SHORT.changed(batch_size=3)}, SubjectError, "batch_size 3, not 2"),
        ({"config": SHORT.changed(resolution=24)}, SubjectError, "resolution 24, not 16"),
        ({"config": SHORT.changed(beta2=0.9)}, SubjectError, "beta2 0.9, not 0.0"),
        ({"config": standard_ti(SHORT)}, SubjectError, "'subject-1' cannot share a batch"),
    ],
)
def test_a_subject_that_cannot_start_is_a_failed_result_and_the_others_train(
    tiny_backbone: Backbone,
    make_subject: MakeSubject,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    subjects = [make_subject(1, **changes), make_subject(2)]
    refused, trained = train(tiny_backbone, subjects, SHORT, num_slots=1, max_vectors=2)
    assert isinstance(refused.error, error)
    assert message in str(refused.error)
    assert refused.metrics == ()
    assert trained.artifact is not None


def test_the_error_of_a_subject_that_did_not_start_holds_no_images(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    first, *others = make_subject(1).images
    masked = replace(first, mask=Image.new("L", first.image.size))  # black: nothing to learn from
    subject = make_subject(1, images=[masked, *others])
    images = [weakref.ref(each.image) for each in subject.images]
    (result,) = train(tiny_backbone, [subject], SHORT, num_slots=1)
    del first, others, masked, subject
    gc.collect()
    error = result.error
    assert isinstance(error, InvalidImageError)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    assert result.subject.images == ()
    assert [each() for each in images] == [None] * len(images)


def test_the_error_of_a_subject_that_did_not_start_has_no_context(
    tiny_backbone: Backbone, make_subject: MakeSubject, tmp_path: Path
) -> None:
    (tmp_path / "subject-1.safetensors").write_bytes(b"no checkpoint")  # found by another error
    checkpoints = CheckpointManager(tmp_path, every=2)
    (result,) = train(tiny_backbone, [make_subject(1)], SHORT, num_slots=1, checkpoints=checkpoints)
    error = result.error
    assert isinstance(error, CheckpointError)
    assert "not a safetensors file" in str(error)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
