"""Tokenization of prompts with learned tokens. The encoder is the real CLIP, tiny."""

import math

import pytest
import torch
from torch import Tensor

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactMismatchError, TokenError
from dti_engine.text.encoder import TextEncoder
from dti_engine.text.inputs import EncoderInput, PromptBatch, inject
from dti_engine.text.prompts import PromptEncoding, bind, tokenize
from dti_engine.text.tokens import LearnedToken

CLIP = "text_encoder"


@pytest.fixture(scope="module")
def encoder(tiny_backbone: Backbone) -> TextEncoder:
    return tiny_backbone.text_encoders[CLIP]


def token(placeholder: str = "<rex>", num_vectors: int = 1, dim: int = 32) -> LearnedToken:
    return LearnedToken(placeholder, {CLIP: torch.randn(num_vectors, dim)})


def spell(encoder: TextEncoder, *prompts: str, **spans: range) -> tuple[Tensor, Tensor]:
    """ids and row of prompts in which <name> stands for spans[name]."""
    bound = {f"<{name}>": {CLIP: rows} for name, rows in spans.items()}
    batch = tokenize(prompts, {CLIP: encoder}, [bound] * len(prompts))
    return batch.inputs[CLIP].ids, batch.inputs[CLIP].row


def padded(encoder: TextEncoder, ids: list[int]) -> list[int]:
    wrapped = encoder.wrap_ids(ids)
    return wrapped + [encoder.pad_id] * (encoder.padded_length(len(wrapped)) - len(wrapped))


def test_a_prompt_without_placeholders_is_spelled_as_the_encoder_does(
    encoder: TextEncoder,
) -> None:
    ids, row = spell(encoder, "a photo of a red dog")
    assert ids[0].tolist() == padded(encoder, encoder.segment_ids("a photo of a red dog"))
    assert bool((row == -1).all())


def test_a_placeholder_takes_one_position_per_vector_and_changes_no_other(
    encoder: TextEncoder,
) -> None:
    ids, row = spell(encoder, "a photo of <rex> on the beach", rex=range(4, 7))
    before, after = encoder.segment_ids("a photo of"), encoder.segment_ids("on the beach")
    assert row[0, : 1 + len(before) + 3 + 1].tolist() == [-1] * (1 + len(before)) + [4, 5, 6, -1]
    stand_ins = [encoder.stand_in_id] * 3
    assert ids[0].tolist() == padded(encoder, [*before, *stand_ins, *after])


def test_a_placeholder_may_occur_twice_and_touch_another(encoder: TextEncoder) -> None:
    _, row = spell(encoder, "<rex><ana> and <rex>", rex=range(2), ana=range(2, 3))
    assert row[0, :7].tolist() == [-1, 0, 1, 2, -1, 0, 1]


def test_a_placeholder_is_matched_whole(encoder: TextEncoder) -> None:
    _, row = spell(encoder, "<dog2> <dog>", dog=range(1), dog2=range(1, 2))
    assert row[0, :4].tolist() == [-1, 1, 0, -1]


def test_each_sample_binds_placeholders_on_its_own(encoder: TextEncoder) -> None:
    spans = [{"<rex>": {CLIP: range(start, start + 1)}} for start in (7, 3)]
    batch = tokenize(["a <rex>", "a <rex>"], {CLIP: encoder}, spans)
    assert batch.inputs[CLIP].row[:, 2].tolist() == [7, 3]


@pytest.mark.parametrize(
    ("prompt", "legacy"),
    [
        ("a red dog", 4),  # no token: at the end
        ("a <rex> on a beach", 3),  # the last vector has the highest id
        ("<ana> and <rex> and <ana>", 1),  # of the token bound last, the first mention
        ("a <rex> and <ana>", 5),
    ],
)
def test_a_prompt_is_pooled_at_its_end_or_at_the_token(
    encoder: TextEncoder, prompt: str, legacy: int
) -> None:
    spans = {"<rex>": {CLIP: range(4, 6)}, "<ana>": {CLIP: range(2, 3)}}
    readings = [PromptEncoding("eos"), PromptEncoding("legacy", instruction=True)]
    batch = tokenize([prompt] * 2, {CLIP: encoder}, [spans] * 2, readings).inputs[CLIP]
    end = int((batch.ids[0] == encoder.wrap_ids([])[-1]).int().argmax())
    assert batch.length.tolist() == [end + 1] * 2
    assert batch.pooled_index.tolist() == [end, legacy]
    assert batch.has_instruction.tolist() == [False, True]


def test_batches_of_different_lengths_are_padded_to_the_longest() -> None:
    def part(length: int) -> EncoderInput:
        ids = torch.full((1, length), 7)
        return EncoderInput(
            ids, -ids, torch.tensor([length]), torch.tensor([0]), torch.tensor([True])
        )

    joined = EncoderInput.concat([part(2), part(4)])
    assert joined.ids.tolist() == [[7, 7, 0, 0], [7] * 4]
    assert joined.row.tolist() == [[-7, -7, -1, -1], [-7] * 4]
    assert joined.length.tolist() == [2, 4]


def test_angle_brackets_that_hold_no_name_are_text(encoder: TextEncoder) -> None:
    ids, row = spell(encoder, "a < b > c <!> <>")
    assert ids[0].tolist() == padded(encoder, encoder.segment_ids("a < b > c <!> <>"))
    assert bool((row == -1).all())


@pytest.mark.parametrize("name", ["<max>", "<Rex>", "<rex2>"])
def test_a_placeholder_that_is_not_bound_is_rejected_and_the_bound_ones_are_named(
    encoder: TextEncoder, name: str
) -> None:
    with pytest.raises(TokenError, match=rf"'a {name}' uses {name}.*bound are: <ana>, <rex>"):
        spell(encoder, f"a {name}", rex=range(1), ana=range(1))


@pytest.mark.parametrize("room", [0, 1])
def test_a_placeholder_that_does_not_fit_whole_is_rejected(encoder: TextEncoder, room: int) -> None:
    prompt = "dog " * (encoder.max_length - 2 - room) + "<rex>"
    with pytest.raises(TokenError, match=r"<rex> would be truncated.* reads 77 positions"):
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
    [token(dim=16), LearnedToken("<rex>", {"other": torch.ones(1, 32)}), LearnedToken("<rex>", {})],
    ids=["dimension", "encoders", "none"],
)
def test_a_token_of_another_model_is_rejected(encoder: TextEncoder, stranger: LearnedToken) -> None:
    with pytest.raises(ArtifactMismatchError, match="<rex> was made for"):
        bind(["a <rex>"], [{"<rex>": stranger}], {CLIP: encoder})


@pytest.mark.parametrize("name", ["<my dog>", "<Rex>", "rex", ""])
def test_a_name_that_no_prompt_can_mention_is_rejected(encoder: TextEncoder, name: str) -> None:
    with pytest.raises(TokenError, match=f"placeholder '{name}' is malformed"):
        bind(["a dog"], [{name: token()}], {CLIP: encoder})


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
