"""Learned tokens, their validation, and blends of them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dti_engine.errors import (
    AntipodalError,
    ArtifactMismatchError,
    ConfigurationError,
    TokenError,
    ZeroVectorError,
)
from dti_engine.optim import sphere
from dti_engine.text.tokens import LearnedToken, mean_tokens, slerp_strip, slerp_tokens

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
def test_a_malformed_placeholder_is_rejected(name: str) -> None:
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
def test_embeddings_that_are_no_finite_float32_rows_are_rejected(rows: Tensor) -> None:
    with pytest.raises(ConfigurationError, match=r"<rex>.*finite float32"):
        LearnedToken("<rex>", {CLIP: rows})


def test_a_zero_row_has_no_direction() -> None:
    with pytest.raises(ZeroVectorError):
        LearnedToken("<rex>", {CLIP: torch.zeros(1, 4)}).directions()


def test_the_ends_of_a_blend_are_the_tokens_bit_for_bit() -> None:
    a, b = two_encoder_token("<a>"), two_encoder_token("<b>")
    for t, end in ((0, a), (0.0, a), (1, b), (1.0, b)):
        blend = slerp_tokens(a, b, t, placeholder="<ab>")
        assert blend.placeholder == "<ab>"
        for name, rows in end.embeddings.items():
            assert torch.equal(blend.embeddings[name], rows)


def test_a_blend_is_pooled_as_its_tokens_if_they_agree() -> None:
    a, b = token("<a>"), replace(token("<b>"), pooling="legacy")
    assert slerp_tokens(b, b, 0.5, placeholder="<ab>").pooling == "legacy"
    assert slerp_tokens(a, b, 0.5, placeholder="<ab>").pooling == "eos"
    assert slerp_tokens(a, b, 1, placeholder="<ab>").pooling == "legacy"
    assert mean_tokens([(b, 1.0), (b, 2.0)], placeholder="<ab>").pooling == "legacy"
    assert mean_tokens([(b, 1.0), (a, 2.0)], placeholder="<ab>").pooling == "eos"


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_a_blend_divides_angle_and_magnitude_of_every_vector_in_proportion(t: float) -> None:
    a, b = two_encoder_token(), two_encoder_token()
    blend = slerp_tokens(a, b, t, placeholder="<ab>")
    for name in a.embeddings:
        start, end, between = (each.directions()[name] for each in (a, b, blend))
        whole = sphere.geodesic_distance(start, end)
        torch.testing.assert_close(sphere.geodesic_distance(start, between), t * whole)
        torch.testing.assert_close(sphere.geodesic_distance(between, end), (1 - t) * whole)
        expected = (1 - t) * a.magnitudes()[name] + t * b.magnitudes()[name]
        torch.testing.assert_close(blend.magnitudes()[name], expected)


@pytest.mark.parametrize("t", [-0.01, 1.01, math.nan])
def test_a_blend_outside_of_its_ends_is_rejected(t: float) -> None:
    with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
        slerp_tokens(token(), token(), t, placeholder="<ab>")


def test_opposite_tokens_have_no_blend() -> None:
    a = token()
    b = LearnedToken("<b>", {CLIP: -2 * a.embeddings[CLIP]})
    with pytest.raises(AntipodalError):
        slerp_tokens(a, b, 0.5, placeholder="<ab>")
    with pytest.raises(AntipodalError):
        mean_tokens([(a, 1.0), (b, 1.0)], placeholder="<ab>")


@pytest.mark.parametrize(
    "other",
    [
        LearnedToken("<b>", {"other": torch.ones(1, 32)}),
        LearnedToken("<b>", {CLIP: torch.ones(2, 32)}),
        LearnedToken("<b>", {CLIP: torch.ones(1, 16)}),
    ],
    ids=["encoders", "vectors", "dimension"],
)
def test_tokens_of_other_shapes_do_not_blend(other: LearnedToken) -> None:
    with pytest.raises(ArtifactMismatchError, match=r"<rex> has .* <b> has"):
        slerp_tokens(token(), other, 0.5, placeholder="<ab>")
    with pytest.raises(ArtifactMismatchError, match=r"<rex> has .* <b> has"):
        mean_tokens([(token(), 1.0), (other, 1.0)], placeholder="<ab>")


def test_a_strip_runs_in_equal_steps_from_end_to_end() -> None:
    a, b = token("<a>"), token("<b>")
    strip = slerp_strip(a, b, 5, placeholder="<ab>")
    assert torch.equal(strip[0].embeddings[CLIP], a.embeddings[CLIP])
    assert torch.equal(strip[-1].embeddings[CLIP], b.embeddings[CLIP])
    directions = torch.cat([each.directions()[CLIP] for each in strip])
    angles = sphere.geodesic_distance(directions[:-1], directions[1:])
    torch.testing.assert_close(angles, angles.mean().expand(4))


def test_a_strip_of_one_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match=">= 2, got 1"):
        slerp_strip(token(), token(), 1, placeholder="<ab>")


@pytest.mark.parametrize("t", [0.25, 0.5])
def test_the_mean_of_two_is_their_blend(t: float) -> None:
    a, b = two_encoder_token(), two_encoder_token()
    mean = mean_tokens([(a, 3 * (1 - t)), (b, 3 * t)], placeholder="<ab>")
    blend = slerp_tokens(a, b, t, placeholder="<ab>")
    for name, rows in blend.embeddings.items():
        torch.testing.assert_close(mean.embeddings[name], rows)


def test_a_mean_does_not_depend_on_the_order_of_its_tokens() -> None:
    weighted = [(token(num_vectors=2), weight) for weight in (0.2, 1.0, 3.0)]
    forward = mean_tokens(weighted, placeholder="<m>").embeddings[CLIP]
    backward = mean_tokens(weighted[::-1], placeholder="<m>").embeddings[CLIP]
    torch.testing.assert_close(forward, backward)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf]])
def test_a_mean_without_positive_weights_is_rejected(weights: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="weights > 0"):
        mean_tokens([(token(), weight) for weight in weights], placeholder="<m>")


def test_directions_around_the_whole_circle_have_no_mean() -> None:
    angles = torch.arange(3) * 2 * math.pi / 3
    rows = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
    tokens = [LearnedToken("<a>", {CLIP: row.unsqueeze(0)}) for row in rows]
    with pytest.raises(AntipodalError):
        mean_tokens([(each, 1.0) for each in tokens], placeholder="<m>")
