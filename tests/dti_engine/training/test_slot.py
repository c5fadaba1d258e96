"""A subject in a slot: its token before training, and what it puts into a step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.objectives import denoising_loss
from dti_engine.config import TrainConfig
from dti_engine.errors import InvalidImageError, SubjectError, TokenError
from dti_engine.images.crops import MAX_CROPS, make_crops
from dti_engine.text.captions import CAPTION_TEMPLATES
from dti_engine.text.encoder import initializer_rows, vocabulary_magnitude
from dti_engine.text.prompts import bind, tokenize
from dti_engine.training.batch import TrainingBatch, blank_samples, draw_samples
from dti_engine.training.slot import Subject, TrainingSlot, initial_token, prepare

CONFIG = TrainConfig(steps=3, batch_size=2, resolution=16, lr=0.04)
PLAIN = CONFIG.changed(magnitude="initializer")
ENCODER = "text_encoder"
MAGNITUDES = {ENCODER: 0.3}
MakeSubject = Callable[..., Subject]


def _prepare(subject: Subject, backbone: Backbone, *, row: int = 0) -> TrainingSlot:
    return prepare(subject, {ENCODER: slice(row, row + 1)}, backbone, CONFIG)


def test_a_word_gives_one_vector_and_a_phrase_one_for_each_of_its_pieces(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    encoders = tiny_backbone.text_encoders
    for phrase in ("dog", "stuffed animal"):
        subject = make_subject(0, initializer=phrase)
        token = initial_token(subject, encoders, MAGNITUDES, PLAIN, 8)
        assert torch.equal(token.embeddings[ENCODER], initializer_rows(encoders[ENCODER], phrase))
        assert token.num_vectors(ENCODER) == len(phrase.split())


def test_num_vectors_repeats_the_pieces_of_the_initializer(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(0, initializer="stuffed animal", num_vectors=5)
    token = initial_token(subject, tiny_backbone.text_encoders, MAGNITUDES, PLAIN, 8)
    pieces = initializer_rows(tiny_backbone.text_encoders[ENCODER], "stuffed animal")
    assert torch.equal(token.embeddings[ENCODER], pieces[[0, 1, 0, 1, 0]])


def test_a_token_may_start_at_the_encoders_output_of_its_words(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    """The last states of the words between begin and end, as CrossInit has it."""
    encoders = tiny_backbone.text_encoders
    subject = make_subject(0, initializer="stuffed animal")
    config = PLAIN.changed(init="states")
    token = initial_token(subject, encoders, MAGNITUDES, config, 8)
    hidden = tiny_backbone.encode_prompts(*bind(["stuffed animal"], [{}], encoders)).hidden
    assert torch.equal(token.embeddings[ENCODER], hidden[0, 1:3])
    assert not torch.allclose(
        token.embeddings[ENCODER], initializer_rows(encoders[ENCODER], "stuffed animal"), atol=0.1
    )


@pytest.mark.parametrize("num_vectors", [1, 9])
def test_too_few_or_too_many_vectors_are_refused_with_the_numbers_allowed(
    tiny_backbone: Backbone, make_subject: MakeSubject, num_vectors: int
) -> None:
    subject = make_subject(0, initializer="stuffed animal", num_vectors=num_vectors)
    with pytest.raises(TokenError, match=rf"{num_vectors} vectors .* 2 \(.*\) to 8 \(max_vectors"):
        initial_token(subject, tiny_backbone.text_encoders, MAGNITUDES, PLAIN, 8)


@pytest.mark.parametrize("initial", ["vocabulary", "initializer", 0.7])
def test_the_magnitude_is_that_of_the_config(
    tiny_backbone: Backbone, make_subject: MakeSubject, initial: str | float
) -> None:
    encoder = tiny_backbone.text_encoders[ENCODER]
    own = torch.linalg.vector_norm(initializer_rows(encoder, "stuffed animal"), dim=1)
    expected = {
        "vocabulary": torch.full((2,), vocabulary_magnitude(encoder)),
        "initializer": own,
        0.7: torch.full((2,), 0.7),
    }[initial]
    subject = make_subject(0, initializer="stuffed animal")
    of_vocabulary, config = (
        {ENCODER: vocabulary_magnitude(encoder)},
        CONFIG.changed(magnitude=initial),
    )
    token = initial_token(subject, tiny_backbone.text_encoders, of_vocabulary, config, 8)
    torch.testing.assert_close(token.magnitudes()[ENCODER], expected)


def test_samples_are_the_same_in_every_slot_but_for_the_row_numbers(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    first, fourth = (_prepare(make_subject(5), tiny_backbone, row=row) for row in (0, 24))
    pairs = [(first.fixed_batch, fourth.fixed_batch)]
    for step in range(3):
        first.step = fourth.step = step
        pairs.append((first.next_batch(), fourth.next_batch()))
    for a, b in pairs:
        for name in ("latents", "noise", "u", "weights"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.prompts.inputs[ENCODER].ids, b.prompts.inputs[ENCODER].ids)
        rows = a.prompts.inputs[ENCODER].row, b.prompts.inputs[ENCODER].row
        assert torch.equal(torch.where(rows[0] < 0, -1, rows[0] + 24), rows[1])
        assert (rows[0] >= 0).any(dim=1).all()


def test_a_long_image_is_seen_in_several_crops_and_a_square_one_whole(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject_images = make_subject(0).images
    square = make_subject(0).images[0].image.crop((0, 0, 16, 16))
    mixed = [
        subject_images[0],
        type(subject_images[0])("square.png", square, "0" * 64, square.size),
    ]
    material = _prepare(make_subject(0, images=mixed), tiny_backbone).prepared
    assert material.num_crops[0] > 1
    assert material.num_crops[1] == 1
    assert len(material.latents.mean) == sum(material.num_crops)


def test_every_sample_says_which_part_of_its_image_it_is(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    training_slot = _prepare(make_subject(0), tiny_backbone)
    seen = [view for p in make_subject(0).images for view in make_crops(p, 16, max_crops=MAX_CROPS)]
    micro_conditionings = torch.tensor(
        [view.micro_conditioning for view in seen], dtype=torch.float32
    )
    assert len(micro_conditionings.unique(dim=0)) > 1
    assert torch.equal(training_slot.prepared.micro_conditioning, micro_conditionings)
    samples = training_slot.next_batch()
    shown = (samples.micro_conditioning[:, None] == micro_conditionings).all(dim=-1)
    mean, std = training_slot.prepared.latents.mean, training_slot.prepared.latents.std
    away = (samples.latents[:, None] - mean).abs() / std  # in the view shown, a few deviations
    assert bool((away.flatten(2).amax(dim=-1)[shown] < 6).all())
    assert bool(shown.any(dim=1).all())


def test_blank_samples_have_the_shapes_of_real_ones_and_a_finite_loss(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    blank = blank_samples(tiny_backbone, CONFIG)
    real = _prepare(make_subject(0), tiny_backbone).next_batch()
    for name in ("latents", "noise", "u", "weights", "micro_conditioning"):
        assert getattr(blank, name).shape == getattr(real, name).shape
        assert getattr(blank, name).dtype == getattr(real, name).dtype
    inputs = blank.prompts.inputs[ENCODER]
    assert inputs.ids.shape == real.prompts.inputs[ENCODER].ids.shape
    assert (inputs.row == -1).all()
    conditioning = tiny_backbone.encode_prompts(blank.prompts, {ENCODER: torch.zeros(8, 32)})
    losses = denoising_loss(tiny_backbone, blank.latents, blank.noise, blank.u, conditioning)
    assert losses.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": []}, InvalidImageError, "no images"),
        ({"seed": -1}, SubjectError, "got -1"),
        ({"seed": 2**64}, SubjectError, "got 18446744073709551616"),
    ],
)
def test_a_subject_without_images_or_with_an_impossible_seed_is_refused(
    tiny_backbone: Backbone,
    make_subject: MakeSubject,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        _prepare(make_subject(0, **changes), tiny_backbone)


# Captions and masks of single images


def _with(subject: Subject, **changes: object) -> Subject:
    """Return the subject with a changed first image."""
    first, *others = subject.images
    return replace(subject, images=[replace(first, **changes), *others])


def _samples(subject: Subject, backbone: Backbone, num_steps: int = 8) -> list[TrainingBatch]:
    training_slot = _prepare(subject, backbone)
    batches: list[TrainingBatch] = []
    for step in range(num_steps):
        training_slot.step = step
        batches.append(training_slot.next_batch())
    return batches


def test_an_image_with_a_caption_is_always_seen_with_it_and_no_other_is(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(3)
    captioned = _with(subject, caption="a photo of {} on a red scarf")
    own = tokenize(
        ["a photo of <rex> on a red scarf"],
        tiny_backbone.text_encoders,
        [{"<rex>": {ENCODER: range(1)}}],
    ).inputs[ENCODER]
    num_crops = _prepare(subject, tiny_backbone).prepared.num_crops
    firsts = num_crops[0]
    num_own = 0
    for step, (plain, changed) in enumerate(
        zip(_samples(subject, tiny_backbone), _samples(captioned, tiny_backbone), strict=True)
    ):
        # Nothing else that is drawn changes.
        for name in ("latents", "noise", "u", "weights"):
            assert torch.equal(getattr(plain, name), getattr(changed, name))
        views = draw_samples(
            3,
            step,
            batch_size=CONFIG.batch_size,
            num_crops=num_crops,
            num_captions=20,
            latent_shape=tuple(plain.latents.shape[1:]),
            timesteps="uniform",
        ).crops
        for index, view in enumerate(views):
            ids = changed.prompts.inputs[ENCODER].ids[index]
            of_first = bool(view < firsts)
            num_own += of_first
            expected = own.ids[0] if of_first else plain.prompts.inputs[ENCODER].ids[index]
            assert torch.equal(ids, expected)
    assert 0 < num_own < 8 * CONFIG.batch_size


def test_a_caption_without_a_place_for_the_token_is_refused(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = _with(make_subject(0), caption="a dog")
    with pytest.raises(TokenError, match=r"caption of '0\.png' has no \{\} for <rex>"):
        _prepare(subject, tiny_backbone)


def test_the_family_of_captions_may_be_the_subjects_own(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    own = CONFIG.changed(captions="style")
    for subject, config in ((make_subject(0, config=own), own), (make_subject(0), CONFIG)):
        training_slot = _prepare(subject, tiny_backbone)
        assert training_slot.config == config
        templates = [each.replace("{}", "<rex>") for each in CAPTION_TEMPLATES[config.captions]]
        bindings = [{"<rex>": {ENCODER: range(1)}}] * len(templates)
        expected = tokenize(templates, tiny_backbone.text_encoders, bindings).inputs[ENCODER]
        assert torch.equal(training_slot.prepared.captions.inputs[ENCODER].ids, expected.ids)


def test_a_subject_without_masks_weighs_exactly_one_everywhere(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    for each in (*_samples(make_subject(0), tiny_backbone), blank_samples(tiny_backbone, CONFIG)):
        assert torch.equal(each.weights, torch.ones_like(each.latents[:, :1]))


def test_the_weights_of_a_sample_are_those_of_its_own_crop(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(0)
    mask = Image.new("L", subject.images[0].image.size)
    mask.paste(255, (0, 0, mask.width, mask.height // 2))  # the upper half of every crop
    masked = _with(subject, mask=mask)
    material = _prepare(masked, tiny_backbone).prepared
    side = material.weights.shape[-1]
    upper = torch.zeros(1, side, side)
    upper[:, : side // 2] = 2
    for index, weights in enumerate(material.weights):
        expected = upper if index < material.num_crops[0] else torch.ones_like(upper)
        assert torch.equal(weights, expected)


def test_a_black_mask_is_refused(tiny_backbone: Backbone, make_subject: MakeSubject) -> None:
    subject = make_subject(0)
    masked = _with(subject, mask=Image.new("L", subject.images[0].image.size))
    with pytest.raises(InvalidImageError, match="its mask is black"):
        _prepare(masked, tiny_backbone)


# The fixed batch


def test_the_fixed_batch_shows_every_image_as_it_is_with_its_mask_and_caption(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(3)
    mask = Image.new("L", subject.images[0].image.size, 255)
    mask.paste(0, (0, 0, mask.width, mask.height // 2))
    subject = _with(subject, caption="a dog with {} in the snow", mask=mask)
    training_slot = _prepare(subject, tiny_backbone)
    material, fixed = training_slot.prepared, training_slot.fixed_batch
    ids = material.captions.inputs[ENCODER].ids
    of_view = [n for n, count in enumerate(material.num_crops) for _ in range(count)]
    seen: list[int] = []
    for latents, weights, prompt in zip(
        fixed.latents, fixed.weights, fixed.prompts.inputs[ENCODER].ids, strict=True
    ):
        # Means, without the noise of the autoencoder: each is exactly that of one crop.
        (view,) = (material.latents.mean == latents).flatten(1).all(dim=1).nonzero().flatten()
        assert torch.equal(weights, material.weights[view])
        seen.append(of_view[view])
        assert torch.equal(prompt, ids[-1]) == (seen[-1] == 0)
    assert set(seen) == {0, 1, 2}
