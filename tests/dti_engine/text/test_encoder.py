"""Initial rows and vocabulary statistics. The encoder is the real CLIP, tiny."""

from pathlib import Path

import pytest
import torch

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import TokenError
from dti_engine.text.encoder import TextEncoder, initializer_rows, vocabulary_magnitude

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
