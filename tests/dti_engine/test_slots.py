"""A subject in a slot: its token before training, and what it puts into a step."""

from collections.abc import Callable

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import InvalidImageError, SubjectError, TokenError
from dti_engine.objectives import denoising_loss
from dti_engine.slots import Subject, blank_samples, initial_token, magnitude, prepare
from dti_engine.vocabulary import initial_rows, vocabulary_magnitude

CONFIG = TrainConfig(steps=3, batch_size=2, resolution=16, lr=0.04)
ENCODER = "text_encoder"
MakeSubject = Callable[..., Subject]


def test_a_word_gives_one_vector_and_a_phrase_one_for_each_of_its_pieces(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    encoders = tiny_backbone.text_encoders
    for phrase in ("dog", "stuffed animal"):
        token = initial_token(make_subject(0, initializer=phrase), encoders, {ENCODER: None}, 8)
        assert torch.equal(token.embeddings[ENCODER], initial_rows(encoders[ENCODER], phrase))
        assert token.num_vectors(ENCODER) == len(phrase.split())


def test_num_vectors_repeats_the_pieces_of_the_initializer(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    subject = make_subject(0, initializer="stuffed animal", num_vectors=5)
    token = initial_token(subject, tiny_backbone.text_encoders, {ENCODER: None}, 8)
    pieces = initial_rows(tiny_backbone.text_encoders[ENCODER], "stuffed animal")
    assert torch.equal(token.embeddings[ENCODER], pieces[[0, 1, 0, 1, 0]])


@pytest.mark.parametrize("num_vectors", [1, 9])
def test_too_few_or_too_many_vectors_are_refused_with_the_numbers_allowed(
    tiny_backbone: Backbone, make_subject: MakeSubject, num_vectors: int
) -> None:
    subject = make_subject(0, initializer="stuffed animal", num_vectors=num_vectors)
    with pytest.raises(TokenError, match=rf"{num_vectors} vectors .* 2 \(.*\) to 8 \(max_vectors"):
        initial_token(subject, tiny_backbone.text_encoders, {ENCODER: None}, 8)


@pytest.mark.parametrize("wanted", ["vocabulary", "initializer", 0.7])
def test_the_magnitude_is_that_of_the_config(
    tiny_backbone: Backbone, make_subject: MakeSubject, wanted: str | float
) -> None:
    encoder = tiny_backbone.text_encoders[ENCODER]
    own = torch.linalg.vector_norm(initial_rows(encoder, "stuffed animal"), dim=1)
    expected = {
        "vocabulary": torch.full((2,), vocabulary_magnitude(encoder)),
        "initializer": own,
        0.7: torch.full((2,), 0.7),
    }[wanted]
    chosen = {ENCODER: magnitude(CONFIG.changed(magnitude=wanted), encoder)}
    subject = make_subject(0, initializer="stuffed animal")
    token = initial_token(subject, tiny_backbone.text_encoders, chosen, 8)
    torch.testing.assert_close(token.magnitudes()[ENCODER], expected)


def test_samples_are_the_same_in_every_slot_but_for_the_row_numbers(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    first, fourth = (
        prepare(make_subject(5), {ENCODER: slice(row, row + 1)}, tiny_backbone, CONFIG)
        for row in (0, 24)
    )
    for step in range(3):
        first.step = fourth.step = step
        a, b = first.samples(CONFIG), fourth.samples(CONFIG)
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.noise, b.noise)
        assert torch.equal(a.u, b.u)
        assert torch.equal(a.prompts.inputs[ENCODER].ids, b.prompts.inputs[ENCODER].ids)
        rows = a.prompts.inputs[ENCODER].row, b.prompts.inputs[ENCODER].row
        assert torch.equal(torch.where(rows[0] < 0, -1, rows[0] + 24), rows[1])
        assert (rows[0] >= 0).any(dim=1).all()


def test_a_long_picture_is_seen_in_several_crops_and_a_square_one_whole(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    pictures = make_subject(0).pictures
    square = make_subject(0).pictures[0].image.crop((0, 0, 16, 16))
    mixed = [pictures[0], type(pictures[0])("square.png", square, "0" * 64, square.size)]
    occupant = prepare(
        make_subject(0, pictures=mixed), {ENCODER: slice(0, 1)}, tiny_backbone, CONFIG
    )
    assert occupant.num_crops[0] > 1
    assert occupant.num_crops[1] == 1
    assert len(occupant.latents.mean) == sum(occupant.num_crops)


def test_blank_samples_have_the_shapes_of_real_ones_and_a_finite_loss(
    tiny_backbone: Backbone, make_subject: MakeSubject
) -> None:
    blank = blank_samples(tiny_backbone, CONFIG)
    real = prepare(make_subject(0), {ENCODER: slice(0, 1)}, tiny_backbone, CONFIG).samples(CONFIG)
    for name in ("latents", "noise", "u"):
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
        ({"pictures": []}, InvalidImageError, "no pictures"),
        ({"seed": -1}, SubjectError, "got -1"),
        ({"seed": 2**64}, SubjectError, "got 18446744073709551616"),
    ],
)
def test_a_subject_without_pictures_or_with_an_impossible_seed_is_refused(
    tiny_backbone: Backbone,
    make_subject: MakeSubject,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        prepare(make_subject(0, **changes), {ENCODER: slice(0, 1)}, tiny_backbone, CONFIG)
