"""Initial rows, vocabulary statistics and nearest words. The encoder is the real CLIP, tiny."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.backbones import load_backbone
from dti_engine.backbones.clip import ClipTextEncoder
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactMismatchError, ConfigurationError, TokenError
from dti_engine.optim import sphere
from dti_engine.text.encoder import (
    TextEncoder,
    initializer_rows,
    inspect_token,
    nearest_words,
    vocabulary_magnitude,
)
from dti_engine.text.tokens import LearnedToken

CLIP = "text_encoder"


@pytest.fixture(scope="module")
def encoder(tiny_backbone: Backbone) -> TextEncoder:
    return tiny_backbone.text_encoders[CLIP]


def test_a_word_starts_from_its_vocabulary_row(encoder: TextEncoder) -> None:
    rows = initializer_rows(encoder, " dog ")
    assert torch.equal(rows, encoder.vocabulary()[encoder.words().index("dog")].unsqueeze(0))


def test_a_phrase_starts_from_one_row_per_piece(encoder: TextEncoder) -> None:
    words = encoder.words()
    expected = encoder.vocabulary()[[words.index("stuffed"), words.index("animal")]]
    assert torch.equal(initializer_rows(encoder, "stuffed animal"), expected)


@pytest.mark.parametrize("initializer", ["", "  ", "\n"])
def test_an_empty_initializer_is_rejected(encoder: TextEncoder, initializer: str) -> None:
    with pytest.raises(TokenError, match="give a common word"):
        initializer_rows(encoder, initializer)


def test_zero_rows_are_no_initializer_and_do_not_count_in_the_magnitude(
    tiny_checkpoint: Path,
) -> None:
    encoder = load_backbone(tiny_checkpoint).text_encoders[CLIP]
    encoder.vocabulary()[encoder.words().index("toy")] = 0
    with pytest.raises(TokenError, match="'toy' has no usable rows"):
        initializer_rows(encoder, "toy")
    norms = encoder.vocabulary().double().norm(dim=-1)
    expected = float(norms.sum()) / (len(norms) - 1)
    assert vocabulary_magnitude(encoder) == pytest.approx(expected, rel=1e-6)


def _token(*rows: torch.Tensor) -> LearnedToken:
    return LearnedToken("<rex>", {CLIP: torch.cat(rows)})


@pytest.mark.parametrize("word", ["dog", "red"])
def test_a_words_own_vector_is_nearest_to_that_word_by_both_measures(
    encoder: TextEncoder, word: str
) -> None:
    by_cosine, by_distance = nearest_words(encoder, initializer_rows(encoder, word)[0], count=3)
    for nearest in (by_cosine[0], by_distance[0]):
        assert nearest.word == word
        assert nearest.cosine == pytest.approx(1, abs=1e-6)
        assert nearest.distance == pytest.approx(0, abs=1e-6)


def test_the_order_is_that_of_cosines_and_of_distances(encoder: TextEncoder) -> None:
    vector = 0.1 * torch.randn(encoder.dim)
    by_cosine, by_distance = nearest_words(encoder, vector, count=5)
    table, words = encoder.vocabulary().double().numpy(), encoder.words()
    v = vector.double().numpy()
    cosines = table @ v / np.linalg.norm(table, axis=1) / np.linalg.norm(v)
    distances = np.linalg.norm(table - v, axis=1)
    assert [each.word for each in by_cosine] == [words[i] for i in np.argsort(-cosines)[:5]]
    assert [each.word for each in by_distance] == [words[i] for i in np.argsort(distances)[:5]]
    np.testing.assert_allclose(
        [each.cosine for each in by_cosine], np.sort(-cosines)[:5] * -1, 1e-4
    )
    np.testing.assert_allclose(
        [each.distance for each in by_distance], np.sort(distances)[:5], 1e-4
    )


def test_length_changes_the_neighbours_by_distance_and_not_those_by_cosine(
    encoder: TextEncoder,
) -> None:
    short, long = (
        nearest_words(encoder, m * torch.ones(encoder.dim), count=5) for m in (1e-3, 1e3)
    )
    assert [each.word for each in short[0]] == [each.word for each in long[0]]
    norms = dict(zip(encoder.words(), encoder.vocabulary().norm(dim=-1).tolist(), strict=True))
    # From almost nowhere, the nearest words are simply the shortest ones.
    assert norms[short[1][0].word] == pytest.approx(min(norms.values()), rel=0.01)
    assert [each.word for each in short[1]] != [each.word for each in long[1]]


def test_words_that_were_never_trained_are_skipped(tiny_checkpoint: Path) -> None:
    model = CLIPTextModel.from_pretrained(
        tiny_checkpoint / CLIP, attn_implementation="sdpa"
    ).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_checkpoint / "tokenizer")
    table = model.get_input_embeddings().weight
    table[10:] = 0
    encoder = ClipTextEncoder(CLIP, model, tokenizer)
    by_cosine, by_distance = nearest_words(encoder, torch.full((encoder.dim,), 1e-6), count=50)
    trained = set(encoder.words()[:10])
    assert {each.word for each in by_cosine} == {each.word for each in by_distance} == trained


def test_the_angle_to_the_initializer_is_that_by_which_a_token_was_turned(
    encoder: TextEncoder,
) -> None:
    dog, cat = (initializer_rows(encoder, word) for word in ("dog", "cat"))
    towards_cat = sphere.to_tangent(sphere.normalize(dog), cat)
    step = torch.deg2rad(torch.tensor(30.0)) * sphere.normalize(towards_cat)
    turned = 0.4 * sphere.exp_map(sphere.normalize(dog), step)
    (report,) = inspect_token(_token(turned), "dog", {CLIP: encoder}, count=1)
    assert report.initializer_angle_deg == pytest.approx(30, abs=1e-3)
    assert report.norm == pytest.approx(0.4, abs=1e-6)


def test_each_vector_is_compared_with_the_piece_it_started_as(encoder: TextEncoder) -> None:
    phrase = "red dog"
    pieces = initializer_rows(encoder, phrase)
    reports = inspect_token(_token(pieces, pieces), phrase, {CLIP: encoder}, count=1)
    assert [each.by_cosine[0].word for each in reports] == ["red", "dog", "red", "dog"]
    assert [each.initializer_angle_deg for each in reports] == pytest.approx([0] * 4, abs=0.05)
    assert [each.index for each in reports] == [0, 1, 2, 3]


def test_an_invalid_comparison_is_rejected(encoder: TextEncoder) -> None:
    vector = torch.ones(encoder.dim)
    with pytest.raises(ConfigurationError, match="must be >= 1, got 0"):
        nearest_words(encoder, vector, count=0)
    with pytest.raises(ArtifactMismatchError, match=r"shape \(32,\), got \(33,\)"):
        nearest_words(encoder, torch.ones(encoder.dim + 1), count=1)
    with pytest.raises(TokenError, match="initializer ''"):
        inspect_token(_token(vector[None]), "", {CLIP: encoder}, count=1)
