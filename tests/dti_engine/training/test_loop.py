"""Training from the first subject to the last, and what is learned; packing: `test_packing`."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import CONFIG, ENCODER, SHORT, LoadParts, MakeSubject, by_id, learned
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.clip import ClipTextEncoder
from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.optim import sphere
from dti_engine.recipes import standard_ti
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.inputs import PromptBatch, Rows
from dti_engine.training.loop import Subject, train
from dti_engine.training.schedules import learning_rate


def _angle(a: Tensor, b: Tensor) -> float:
    return float(sphere.geodesic_distance(sphere.normalize(a), sphere.normalize(b)).max())


def test_a_subject_learns_the_same_in_a_refilled_slot_as_alone(
    exact_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subjects = [make_subject(number) for number in range(5)]
    refilled, together = (
        by_id(train(exact_backbone, subjects, SHORT, num_slots=num_slots)) for num_slots in (2, 5)
    )
    assert refilled.keys() == together.keys() == {subject.id for subject in subjects}
    for name, result in refilled.items():
        torch.testing.assert_close(learned(result), learned(together[name]), rtol=0, atol=1e-7)
        assert [report.step for report in result.metrics] == [1, 2, 3, 4]


def test_subjects_are_taken_from_the_queue_only_when_a_slot_is_free(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    drawn: list[int] = []

    def queue() -> Iterator[Subject]:
        for number in range(5):
            drawn.append(number)
            yield make_subject(number)

    counts: list[int] = []

    def count(_: object) -> None:
        counts.append(len(drawn))

    assert len(list(train(tiny_backbone, queue(), SHORT, num_slots=2, on_step=count))) == 5
    assert counts == [2] * 4 + [4] * 4 + [5] * 4


def test_an_outcome_is_there_before_the_next_subject_is_taken(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    def queue() -> Iterator[Subject]:
        yield make_subject(1)
        raise KeyboardInterrupt

    results = train(tiny_backbone, queue(), SHORT, num_slots=1)
    assert next(results).artifact is not None
    with pytest.raises(KeyboardInterrupt):
        next(results)


@pytest.mark.parametrize(
    ("init", "changes"),
    [("vocabulary", {}), (0.7, {"ema_decay": 0.9}), ("vocabulary", {"schedule": "cosine"})],
)
def test_dti_turns_by_its_angle_and_keeps_the_magnitude_to_1e_6(
    tiny_backbone: Backbone,
    make_subject: MakeSubject,
    init: str | float,
    changes: dict[str, object],
) -> None:
    subject = make_subject(1, initializer="stuffed animal")
    config = CONFIG.changed(magnitude=init, **changes)
    (result,) = train(tiny_backbone, [subject], config, num_slots=1)
    encoder = tiny_backbone.text_encoders[ENCODER]
    magnitude = vocabulary_magnitude(encoder) if init == "vocabulary" else init
    norms = torch.linalg.vector_norm(learned(result), dim=1)
    torch.testing.assert_close(norms, torch.full((2,), magnitude), rtol=0, atol=1e-6)
    for step, report in enumerate(result.metrics):
        angle = math.atan(learning_rate(config, step))
        assert report.step_angle_rad == pytest.approx(angle, abs=1e-6)
        assert report.norm == pytest.approx(magnitude, abs=1e-6)
        assert report.prior_ratio > 0


def test_an_averaged_token_is_the_mean_of_the_directions_that_plain_training_goes_through(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject, config = make_subject(1, num_vectors=2), CONFIG.changed(eval_every=100)
    tokens: list[Tensor] = []

    def keep(_: Subject, artifact: Artifact) -> None:
        tokens.append(artifact.token.embeddings[ENCODER])

    (plain,) = train(
        tiny_backbone,
        [subject],
        config,
        num_slots=1,
        snapshot_steps=range(CONFIG.steps),
        on_snapshot=keep,
    )
    tokens.append(learned(plain))
    averaging = config.changed(ema_decay=0.8)
    (averaged,) = train(tiny_backbone, [subject], averaging, num_slots=1)
    weights = 0.8 ** np.arange(CONFIG.steps)[::-1]
    mean = np.average([each.double().numpy() for each in tokens], axis=0, weights=weights)
    magnitude = vocabulary_magnitude(tiny_backbone.text_encoders[ENCODER])
    expected = torch.from_numpy(magnitude * mean / np.linalg.norm(mean, axis=1, keepdims=True))
    torch.testing.assert_close(learned(averaged).double(), expected, rtol=0, atol=1e-6)
    assert _angle(learned(averaged), learned(plain)) > 0.01
    # The way there is the same to the bit; only what is made of it differs.
    for one, other in zip(plain.metrics, averaged.metrics, strict=True):
        of_token = {name: getattr(one, name) for name in ("fixed_loss", "prior_angle_rad", "norm")}
        assert one == replace(other, **of_token)


def test_standard_ti_changes_the_length_of_the_vector(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    (result,) = train(tiny_backbone, [make_subject(1)], standard_ti(CONFIG), num_slots=1)
    norms = [report.norm for report in result.metrics]
    assert max(norms) - min(norms) > 0.01
    assert result.metrics[-1].prior_ratio == 0


def test_several_vectors_are_all_learned_each_on_its_own(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subjects = [make_subject(1), make_subject(2, num_vectors=3)]
    results = by_id(train(tiny_backbone, subjects, CONFIG, num_slots=2, max_vectors=3))
    rows = learned(results["subject-2"])
    assert learned(results["subject-1"]).shape == (1, 32)
    assert rows.shape == (3, 32)
    assert min(_angle(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01


def test_training_changes_no_weight_of_the_model(
    load_parts: LoadParts, make_subject: MakeSubject
) -> None:
    parts = load_parts(torch.float32)
    modules = parts.text_model, parts.unet, parts.vae
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    words = len(parts.tokenizer)
    (result,) = train(parts.assembled(), [make_subject(1)], SHORT, num_slots=1)
    assert result.artifact is not None
    for module, state in zip(modules, before, strict=True):
        assert all(parameter.grad is None for parameter in module.parameters())
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert len(parts.tokenizer) == words


def test_rows_stay_float32_when_the_model_is_bfloat16(
    load_parts: LoadParts, make_subject: MakeSubject
) -> None:
    backbone = load_parts(torch.bfloat16).assembled()
    (result,) = train(backbone, [make_subject(1)], SHORT, num_slots=1)
    magnitude = vocabulary_magnitude(backbone.text_encoders[ENCODER])
    assert float(learned(result).norm()) == pytest.approx(magnitude, abs=1e-6)
    assert not torch.equal(learned(result).bfloat16().float(), learned(result))


class _TwoEncoders:
    """The tiny backbone with two encoders, whose features stand side by side as in SDXL."""

    def __init__(self, parts: Any) -> None:
        self._backbone = parts.assembled()
        self.text_encoders = {
            name: ClipTextEncoder(name, parts.text_model, parts.tokenizer)
            for name in ("first", "second")
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_prompts(
        self, prompts: PromptBatch, rows: Rows, micro_conditioning: torch.Tensor | None = None
    ) -> Conditioning:
        first, second = (
            encoder.hidden_states(prompts.inputs[name], rows[name])
            for name, encoder in self.text_encoders.items()
        )
        return Conditioning(torch.cat([first[..., :16], second[..., 16:]], dim=-1))


def test_every_text_encoder_has_rows_of_its_own(
    load_parts: LoadParts, make_subject: MakeSubject
) -> None:
    backbone = _TwoEncoders(load_parts(torch.float32))
    (result,) = train(backbone, [make_subject(1)], CONFIG, num_slots=1)
    assert result.artifact is not None
    first, second = (result.artifact.token.embeddings[name] for name in ("first", "second"))
    assert _angle(first, second) > 0.01
    for report in result.metrics:
        assert report.step_angle_rad == pytest.approx(math.atan(CONFIG.lr), abs=1e-6)


# Captions and masks of single images


def _masked(subject: Subject, white: int) -> Subject:
    """Return the subject with a caption, and masks whose left part is that bright."""
    subject_images = []
    for subject_image in subject.images:
        mask = Image.new("L", subject_image.image.size, 255)
        mask.paste(white, (0, 0, subject_image.image.width // 2, subject_image.image.height))
        subject_images.append(
            replace(subject_image, mask=mask, caption=None if white else "a {} on a beach")
        )
    return replace(subject, images=subject_images)


def test_white_masks_give_the_same_token_as_no_masks_bit_for_bit(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subjects = (make_subject(3), _masked(make_subject(3), 255))
    plain, masked = (next(train(tiny_backbone, [each], SHORT, num_slots=1)) for each in subjects)
    assert torch.equal(learned(plain), learned(masked))
