"""Learned tokens, their blends, and how they enter prompts. The encoder is the real CLIP, tiny."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dti_engine import sphere
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import (
    AntipodalError,
    ArtifactMismatchError,
    ConfigurationError,
    TokenError,
    ZeroVectorError,
)
from dti_engine.tokens import (
    LearnedToken,
    PromptBatch,
    TextEncoder,
    bind,
    initial_rows,
    inject,
    mean_tokens,
    slerp_strip,
    slerp_tokens,
    tokenize,
    vocabulary_magnitude,
)

CLIP = "text_encoder"


@pytest.fixture(scope="module")
def encoder(tiny_backbone: Backbone) -> TextEncoder:
    return tiny_backbone.text_encoders[CLIP]


def token(placeholder: str = "<rex>", num_vectors: int = 1, dim: int = 32) -> LearnedToken:
    return LearnedToken(placeholder, {CLIP: torch.randn(num_vectors, dim)})


def two_encoder_token(placeholder: str = "<rex>") -> LearnedToken:
    """Other counts and dimensions in each encoder."""
    return LearnedToken(placeholder, {"one": torch.randn(2, 8), "two": torch.randn(1, 16)})


# A learned token


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


# Blends


def test_the_ends_of_a_blend_are_the_tokens_bit_for_bit() -> None:
    a, b = two_encoder_token("<a>"), two_encoder_token("<b>")
    for t, end in ((0, a), (0.0, a), (1, b), (1.0, b)):
        blend = slerp_tokens(a, b, t, placeholder="<ab>")
        assert blend.placeholder == "<ab>"
        for name, rows in end.embeddings.items():
            assert torch.equal(blend.embeddings[name], rows)


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
def test_a_blend_outside_of_its_ends_is_refused(t: float) -> None:
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


def test_a_strip_of_one_is_refused() -> None:
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
def test_a_mean_without_positive_weights_is_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="weights > 0"):
        mean_tokens([(token(), weight) for weight in weights], placeholder="<m>")


def test_directions_around_the_whole_circle_have_no_mean() -> None:
    angles = torch.arange(3) * 2 * math.pi / 3
    rows = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
    tokens = [LearnedToken("<a>", {CLIP: row.unsqueeze(0)}) for row in rows]
    with pytest.raises(AntipodalError):
        mean_tokens([(each, 1.0) for each in tokens], placeholder="<m>")


# Spelling prompts


def spell(encoder: TextEncoder, *prompts: str, **spans: range) -> tuple[Tensor, Tensor]:
    """ids and row of prompts in which <name> stands for spans[name]."""
    bound = {f"<{name}>": {CLIP: rows} for name, rows in spans.items()}
    batch = tokenize(prompts, {CLIP: encoder}, [bound] * len(prompts))
    return batch.inputs[CLIP].ids, batch.inputs[CLIP].row


def test_a_prompt_without_placeholders_is_spelled_as_the_encoder_does(
    encoder: TextEncoder,
) -> None:
    ids, row = spell(encoder, "a photo of a red dog")
    assert ids[0].tolist() == encoder.wrap_ids(encoder.segment_ids("a photo of a red dog"))
    assert bool((row == -1).all())


def test_a_placeholder_takes_one_position_per_vector_and_changes_no_other(
    encoder: TextEncoder,
) -> None:
    ids, row = spell(encoder, "a photo of <rex> on the beach", rex=range(4, 7))
    before, after = encoder.segment_ids("a photo of"), encoder.segment_ids("on the beach")
    assert row[0, : 1 + len(before) + 3 + 1].tolist() == [-1] * (1 + len(before)) + [4, 5, 6, -1]
    stand_ins = [encoder.stand_in_id] * 3
    assert ids[0].tolist() == encoder.wrap_ids([*before, *stand_ins, *after])


def test_a_placeholder_may_occur_twice_and_touch_another(encoder: TextEncoder) -> None:
    _, row = spell(encoder, "<rex><ana> and <rex>", rex=range(2), ana=range(2, 3))
    assert row[0, :7].tolist() == [-1, 0, 1, 2, -1, 0, 1]


def test_a_placeholder_is_matched_whole(encoder: TextEncoder) -> None:
    _, row = spell(encoder, "<dog2> <dog>", dog=range(1), dog2=range(1, 2))
    assert row[0, :4].tolist() == [-1, 1, 0, -1]


def test_each_sample_has_its_own_meaning_of_a_placeholder(encoder: TextEncoder) -> None:
    spans = [{"<rex>": {CLIP: range(start, start + 1)}} for start in (7, 3)]
    batch = tokenize(["a <rex>", "a <rex>"], {CLIP: encoder}, spans)
    assert batch.inputs[CLIP].row[:, 2].tolist() == [7, 3]


def test_angle_brackets_that_hold_no_name_are_text(encoder: TextEncoder) -> None:
    ids, row = spell(encoder, "a < b > c <!> <>")
    assert ids[0].tolist() == encoder.wrap_ids(encoder.segment_ids("a < b > c <!> <>"))
    assert bool((row == -1).all())


@pytest.mark.parametrize("name", ["<max>", "<Rex>", "<rex2>"])
def test_a_placeholder_that_is_not_bound_is_refused_and_the_bound_ones_are_named(
    encoder: TextEncoder, name: str
) -> None:
    with pytest.raises(TokenError, match=rf"'a {name}' uses {name}.*bound are: <ana>, <rex>"):
        spell(encoder, f"a {name}", rex=range(1), ana=range(1))


@pytest.mark.parametrize("room", [0, 1])
def test_a_placeholder_that_does_not_fit_whole_is_refused(encoder: TextEncoder, room: int) -> None:
    prompt = "dog " * (encoder.max_length - 2 - room) + "<rex>"
    with pytest.raises(TokenError, match=r"<rex> would be cut off.* reads 77 positions"):
        spell(encoder, prompt, rex=range(2))


def test_a_placeholder_at_the_very_end_fits_and_text_after_it_is_cut(encoder: TextEncoder) -> None:
    prompt = "dog " * (encoder.max_length - 2 - 2) + "<rex> and more text"
    _, row = spell(encoder, prompt, rex=range(2))
    assert row[0, -3:].tolist() == [0, 1, -1]


def test_batches_are_selected_and_joined_by_sample(encoder: TextEncoder) -> None:
    bound = {"<rex>": {CLIP: range(1)}}
    whole = tokenize(["a dog", "a <rex>", "a cat"], {CLIP: encoder}, [bound] * 3)
    parts = [whole.select(torch.tensor([0])), whole.select(torch.tensor([1, 2]))]
    joined = PromptBatch.concat(parts)
    assert torch.equal(joined.inputs[CLIP].ids, whole.inputs[CLIP].ids)
    assert torch.equal(joined.inputs[CLIP].row, whole.inputs[CLIP].row)


# Binding tokens


def test_a_token_shared_by_prompts_takes_its_rows_once(encoder: TextEncoder) -> None:
    rex, ana = token("<rex>", 2), token("<ana>", 1)
    tokens = [{"<rex>": rex}, {"<rex>": ana, "<other>": rex}, {}]
    batch, rows = bind(["<rex>", "<rex> <other>", "a dog"], tokens, {CLIP: encoder})
    assert torch.equal(rows[CLIP], torch.cat([rex.embeddings[CLIP], ana.embeddings[CLIP]]))
    assert batch.inputs[CLIP].row[:, 1:5].tolist() == [
        [0, 1, -1, -1],
        [2, 0, 1, -1],
        [-1, -1, -1, -1],
    ]


def test_prompts_without_tokens_bind_to_an_empty_table(encoder: TextEncoder) -> None:
    _, rows = bind(["a dog"], [{}], {CLIP: encoder})
    assert rows[CLIP].shape == (0, encoder.dim)


@pytest.mark.parametrize(
    "stranger",
    [token(dim=16), two_encoder_token(), LearnedToken("<rex>", {})],
    ids=["dimension", "encoders", "none"],
)
def test_a_token_of_another_backbone_is_refused(
    encoder: TextEncoder, stranger: LearnedToken
) -> None:
    with pytest.raises(ArtifactMismatchError, match="<rex> was made for"):
        bind(["a <rex>"], [{"<rex>": stranger}], {CLIP: encoder})


# Injection


def test_learned_rows_stand_where_they_are_named_and_nowhere_else() -> None:
    embedded, rows = torch.randn(2, 3, 4), torch.randn(2, 4)
    injected = inject(embedded, torch.tensor([[-1, 0, 1], [1, -1, -1]]), rows)
    expected = torch.stack(
        [
            torch.stack([embedded[0, 0], rows[0], rows[1]]),
            torch.stack([rows[1], embedded[1, 1], embedded[1, 2]]),
        ]
    )
    assert torch.equal(injected, expected)


def test_the_gradient_of_a_row_is_the_sum_over_its_positions() -> None:
    rows = torch.randn(3, 4, requires_grad=True)
    weights = torch.randn(2, 3, 4)
    row = torch.tensor([[-1, 0, 1], [1, -1, -1]])
    (inject(torch.randn(2, 3, 4), row, rows) * weights).sum().backward()
    assert rows.grad is not None
    expected = torch.stack([weights[0, 1], weights[0, 2] + weights[1, 0], torch.zeros(4)])
    torch.testing.assert_close(rows.grad, expected)


def test_a_row_or_gradient_that_is_not_finite_stays_with_its_sample() -> None:
    rows = torch.randn(2, 4)
    rows[0] = math.nan
    rows.requires_grad_()
    row = torch.tensor([[0, -1], [1, -1]])
    injected = inject(torch.randn(2, 2, 4), row, rows)
    assert bool(injected[1].isfinite().all())
    injected.backward(
        torch.where(torch.arange(2) == 0, math.nan, 1.0)[:, None, None].expand(2, 2, 4)
    )
    assert rows.grad is not None
    assert rows.grad[1].tolist() == [1.0] * 4


def test_rows_are_cast_to_the_encoders_dtype_and_keep_their_own() -> None:
    rows = torch.randn(1, 4, requires_grad=True)
    injected = inject(torch.randn(1, 2, 4, dtype=torch.bfloat16), torch.tensor([[0, -1]]), rows)
    assert injected.dtype == torch.bfloat16
    injected.sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32


# Where learning starts


def test_a_word_starts_from_its_vocabulary_row(encoder: TextEncoder) -> None:
    rows = initial_rows(encoder, " dog ")
    assert torch.equal(rows, encoder.vocabulary()[encoder.words().index("dog")].unsqueeze(0))


def test_a_phrase_starts_from_one_row_per_piece(encoder: TextEncoder) -> None:
    words = encoder.words()
    expected = encoder.vocabulary()[[words.index("stuffed"), words.index("animal")]]
    assert torch.equal(initial_rows(encoder, "stuffed animal"), expected)


@pytest.mark.parametrize("initializer", ["", "  ", "\n"])
def test_an_empty_initializer_is_refused(encoder: TextEncoder, initializer: str) -> None:
    with pytest.raises(TokenError, match="give a common word"):
        initial_rows(encoder, initializer)


def test_words_that_were_never_trained_start_nothing_and_weigh_nothing(
    tiny_checkpoint: Path,
) -> None:
    encoder = load_backbone(tiny_checkpoint).text_encoders[CLIP]
    encoder.vocabulary()[encoder.words().index("toy")] = 0
    with pytest.raises(TokenError, match="'toy' has no usable rows"):
        initial_rows(encoder, "toy")
    norms = encoder.vocabulary().double().norm(dim=-1)
    expected = float(norms.sum()) / (len(norms) - 1)
    assert vocabulary_magnitude(encoder) == pytest.approx(expected, rel=1e-6)
