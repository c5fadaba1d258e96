"""A learned token: lengths, directions, and what is none."""

import math

import pytest
import torch
from torch import Tensor

from dti_engine.errors import ConfigurationError, TokenError, ZeroVectorError
from dti_engine.text.tokens import LearnedToken

CLIP = "text_encoder"


def token(placeholder: str = "<rex>", num_vectors: int = 1, dim: int = 32) -> LearnedToken:
    return LearnedToken(placeholder, {CLIP: torch.randn(num_vectors, dim)})


def two_encoder_token(placeholder: str = "<rex>") -> LearnedToken:
    """Other counts and dimensions in each encoder."""
    return LearnedToken(placeholder, {"one": torch.randn(2, 8), "two": torch.randn(1, 16)})


def test_a_token_is_its_magnitudes_times_its_directions() -> None:
    rex = two_encoder_token()
    for name, rows in rex.embeddings.items():
        rebuilt = rex.magnitudes()[name].unsqueeze(-1) * rex.directions()[name]
        torch.testing.assert_close(rebuilt, rows)
    assert (rex.num_vectors("one"), rex.num_vectors("two")) == (2, 1)


@pytest.mark.parametrize("name", ["<a>", "<rex-2>", "<0_o>", f"<{'x' * 63}>"])
def test_a_placeholder_is_a_short_lower_case_name_in_angle_brackets(name: str) -> None:
    assert token(name).placeholder == name


@pytest.mark.parametrize(
    "name", ["rex", "<Rex>", "<>", "<a b>", "<-a>", "<é>", "<<a>>", f"<{'x' * 64}>", "<a>\n"]
)
def test_a_malformed_placeholder_is_refused(name: str) -> None:
    with pytest.raises(TokenError, match="write <name>"):
        token(name)


@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(1, 4, dtype=torch.float64),
        torch.ones(4),
        torch.ones(0, 4),
        torch.tensor([[1.0, math.nan]]),
        torch.tensor([[math.inf, 1.0]]),
    ],
    ids=["float64", "one axis", "no vectors", "nan", "inf"],
)
def test_embeddings_that_are_no_finite_float32_rows_are_refused(rows: Tensor) -> None:
    with pytest.raises(ConfigurationError, match=r"<rex>.*finite float32"):
        LearnedToken("<rex>", {CLIP: rows})


def test_a_zero_row_has_no_direction() -> None:
    with pytest.raises(ZeroVectorError):
        LearnedToken("<rex>", {CLIP: torch.zeros(1, 4)}).directions()
