"""Our way through Gemma against transformers' own and the way that diffusers reads prompts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from safetensors.torch import load_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Gemma2Model, GemmaTokenizer

from dti_engine.backbones import load_backbone
from dti_engine.backbones.gemma import GemmaTextEncoder
from dti_engine.backbones.sana import instruction
from dti_engine.errors import ModelLoadError, TokenError
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.inputs import EncoderInput
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken

NAME = "gemma"
PROMPTS = [
    "a photo of a red dog on the beach",
    "",
    "  Dog, CAT & bird!  ",
    "2 dogs, 3 cats",
    "ünusual\nlines",
    "dog " * 250,
    "2 dogs " * 100,  # more than there is room for
]


@pytest.fixture(scope="module")
def weights(make_sana_checkpoint: Callable[..., Path]) -> Path:
    return make_sana_checkpoint()


@pytest.fixture(scope="module")
def encoder(weights: Path) -> GemmaTextEncoder:
    return load_encoder(weights)


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> SanaPipeline:
    pipeline = SanaPipeline.from_pretrained(weights, low_cpu_mem_usage=False)
    # Some versions of transformers choose "sdpa", which leaves out the cap on Gemma's logits.
    pipeline.text_encoder.set_attn_implementation("eager")
    return pipeline


def load_encoder(weights: Path, dtype: torch.dtype = torch.float32) -> GemmaTextEncoder:
    encoder = load_backbone(weights, dtype=dtype).text_encoders[NAME]
    assert isinstance(encoder, GemmaTextEncoder)
    return encoder


def random_token(num_vectors: int = 1) -> LearnedToken:
    return LearnedToken("<rex>", {NAME: 0.2 * torch.randn(num_vectors, 32)})


def spelled(
    encoder: GemmaTextEncoder,
    prompts: list[str],
    token: LearnedToken | None = None,
    instructed: list[bool] | None = None,
) -> tuple[EncoderInput, Tensor]:
    tokens = [{"<rex>": token} if token else {}] * len(prompts)
    batch, rows = bind(prompts, tokens, {NAME: encoder}, instructed)
    return batch.inputs[NAME], rows[NAME]


def counted(prompts: EncoderInput) -> Tensor:
    return torch.arange(prompts.ids.shape[1]) < prompts.length[:, None]


def read_plainly(
    model: Gemma2Model, tokenizer: GemmaTokenizer, prompts: EncoderInput, rows: Tensor
) -> list[Tensor]:
    """Return the states of each prompt, with the instruction computed in full."""
    table = model.embed_tokens.weight
    states: list[Tensor] = []
    for ids, row, length, instructed in zip(
        prompts.ids, prompts.row, prompts.length, prompts.has_instruction, strict=True
    ):
        vectors = [table[i] if r < 0 else rows[r] for i, r in zip(ids, row, strict=True)]
        before = tokenizer(instruction().rstrip(), add_special_tokens=False)["input_ids"]
        before = before if instructed else []
        vectors = [vectors[0], *table[before], *vectors[1 : int(length)]]
        embedded = model.config.hidden_size**0.5 * torch.stack(vectors)
        hidden = model(inputs_embeds=embedded[None]).last_hidden_state[0]
        states.append(torch.cat([hidden[:1], hidden[1 + len(before) :]]))
    return states


# Prompts


@pytest.mark.parametrize("instructed", [False, True])
def test_a_prompt_is_read_as_diffusers_does(
    encoder: GemmaTextEncoder, pipeline: SanaPipeline, instructed: bool
) -> None:
    lines = instruction().split("\n") if instructed else None
    expected, mask, negative, negative_mask = pipeline.encode_prompt(
        PROMPTS, negative_prompt=PROMPTS, complex_human_instruction=lines
    )
    prompts, rows = spelled(encoder, PROMPTS, instructed=[instructed] * len(PROMPTS))
    assert torch.equal(counted(prompts), mask.bool()[:, : prompts.ids.shape[1]])
    assert prompts.length.tolist() == mask.sum(dim=1).tolist()
    hidden = encoder.hidden_states(prompts, rows)
    torch.testing.assert_close(hidden[counted(prompts)], expected[mask > 0], rtol=0, atol=2e-5)
    plain, rows = spelled(encoder, PROMPTS)
    hidden = encoder.hidden_states(plain, rows)
    torch.testing.assert_close(
        hidden[counted(plain)], negative[negative_mask > 0], rtol=0, atol=2e-5
    )


def test_the_first_word_takes_the_blank_of_the_instruction(encoder: GemmaTextEncoder) -> None:
    prompts, _ = spelled(encoder, ["dog", "dog"], instructed=[False, True])
    alone, behind = prompts.ids[:, 1].tolist()
    assert [alone] == encoder.segment_ids("dog")
    assert [behind] == encoder.segment_ids(" dog") != [alone]


def test_a_learned_row_takes_the_place_of_a_word_and_of_the_blank_before_it(
    encoder: GemmaTextEncoder,
) -> None:
    (dog,) = encoder.segment_ids(" dog")
    token = LearnedToken("<rex>", {NAME: encoder.vocabulary()[[dog]]})
    pattern = ["a photo of {} on the beach", "{}, a cat and {}", "{}"]
    both = [True] * len(pattern)
    learned = spelled(encoder, [each.replace("{}", "<rex>") for each in pattern], token, both)
    words = spelled(encoder, [each.replace("{}", "dog") for each in pattern], instructed=both)
    assert torch.equal(encoder.hidden_states(*learned), encoder.hidden_states(*words))


def test_text_is_read_in_lower_case(encoder: GemmaTextEncoder) -> None:
    assert encoder.segment_ids(" Red DOG") == encoder.segment_ids(" red dog")


@pytest.mark.parametrize("text", ["a <bos> dog", "<START_OF_TURN>", "<eos>", "dog<pad>", "<unk>"])
def test_marks_of_the_tokenizer_are_no_text(encoder: GemmaTextEncoder, text: str) -> None:
    with pytest.raises(TokenError, match="cannot read as text"):
        encoder.segment_ids(text)


def test_words_are_whole_and_pieces_are_marked(encoder: GemmaTextEncoder) -> None:
    assert {"dog", "-dog", "<bos>", "animal", "-d"} <= set(encoder.words())


def test_a_tokenizer_of_another_model_is_refused(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    tokenizer = GemmaTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.add_tokens("<added>")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ModelLoadError, match=r"knows \d+ tokens and its model \d+; they"):
        load_backbone(tmp_path)


def test_a_tokenizer_in_another_format_is_refused(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer" / "tokenizer.json").rename(tmp_path / "tokenizer" / "tokenizer.model")
    with pytest.raises(ModelLoadError, match=r"'tokenizer' .* it has no tokenizer.json"):
        load_backbone(tmp_path)


# Lengths


def test_a_batch_is_no_longer_than_it_must_be(encoder: GemmaTextEncoder) -> None:
    lengths = [encoder.padded_length(longest) for longest in (1, 32, 33, 288, 289, 300)]
    assert lengths == [32, 32, 64, 288, 300, 300]


def test_padding_to_300_positions_changes_nothing(encoder: GemmaTextEncoder) -> None:
    prompts, rows = spelled(encoder, ["a <rex>", "a red <rex>"], random_token(), [False, True])
    longest, _ = spelled(encoder, ["dog " * 300])
    padded = EncoderInput.concat([prompts, longest]).select(torch.arange(2))
    assert (prompts.ids.shape[1], padded.ids.shape[1]) == (32, 300)
    seen = counted(prompts)
    short, short_slope = states_and_slope(encoder, prompts, rows, seen)
    full, full_slope = states_and_slope(encoder, padded, rows, counted(padded))
    torch.testing.assert_close(short, full, rtol=0, atol=1e-5)
    torch.testing.assert_close(short_slope, full_slope, rtol=1e-5, atol=1e-4)


def states_and_slope(
    encoder: GemmaTextEncoder, prompts: EncoderInput, rows: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """States (N, d) where they count, and the gradient of a fixed function of them in the rows."""
    table = rows.clone().requires_grad_()
    states = encoder.hidden_states(prompts, table)[seen]
    weights = torch.linspace(-1, 1, states.numel()).reshape(states.shape)
    (slope,) = torch.autograd.grad((weights * states).sum(), table)
    return states.detach(), slope


# What stands before every prompt


def test_stored_keys_and_values_change_neither_states_nor_gradients(
    encoder: GemmaTextEncoder, pipeline: SanaPipeline
) -> None:
    """One batch of prompts with and without the instruction, against each in full, by itself."""
    texts = ["a photo of <rex>", "2 <rex>, a dog", "<rex> on the beach", "dog " * 80 + "<rex>"]
    prompts, rows = spelled(encoder, texts, random_token(2), [True, False, True, False])
    states, slope = states_and_slope(encoder, prompts, rows, counted(prompts))
    table = rows.clone().requires_grad_()
    plain = torch.cat(read_plainly(pipeline.text_encoder, pipeline.tokenizer, prompts, table))
    weights = torch.linspace(-1, 1, plain.numel()).reshape(plain.shape)
    (expected,) = torch.autograd.grad((weights * plain).sum(), table)
    torch.testing.assert_close(states, plain.detach(), rtol=0, atol=2e-5)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-3)


def test_a_batch_does_not_change_the_cached_keys_and_values(encoder: GemmaTextEncoder) -> None:
    prompts, rows = spelled(encoder, ["a <rex>"] * 3, random_token(), [True, False, True])
    first = encoder.hidden_states(prompts, rows.requires_grad_())
    first.sum().backward()
    assert torch.equal(encoder.hidden_states(prompts, rows), first)


def test_the_instruction_reaches_only_prompts_that_have_it(encoder: GemmaTextEncoder) -> None:
    texts = ["<rex> on the beach"] * 2  # alike in all positions with and without
    prompts, rows = spelled(encoder, texts, random_token(), [True, False])
    with_it, without = encoder.hidden_states(prompts, rows)
    assert torch.equal(prompts.ids[0], prompts.ids[1])
    assert torch.equal(with_it[0], without[0])
    assert bool((with_it[1:5] != without[1:5]).any(dim=-1).all())


def test_encoding_does_not_wait_for_the_device(encoder: GemmaTextEncoder) -> None:
    """On a GPU, such a wait would delay the step; here it is an error."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = torch.randn(1, 32, requires_grad=True)
        ids = torch.full((2, 32), 5)
        length = torch.full((2,), 3)
        prompts = EncoderInput(ids, ids - 6, length, length, length > 3)
        encoder.hidden_states(prompts, rows).sum().backward()


# Embeddings


def test_lengths_of_words_are_those_of_the_stored_rows(
    encoder: GemmaTextEncoder, weights: Path
) -> None:
    """Not of what the model multiplies them to."""
    table = load_file(weights / "text_encoder" / "model.safetensors")["embed_tokens.weight"]
    assert torch.equal(encoder.vocabulary(), table)
    norms = table.norm(dim=-1)
    expected = float(norms[norms > 0].mean())
    assert vocabulary_magnitude(encoder) == pytest.approx(expected, rel=1e-6)


def test_a_learned_row_is_scaled_like_the_models_own(
    encoder: GemmaTextEncoder, pipeline: SanaPipeline
) -> None:
    ids = encoder.segment_ids(" stuffed animal")
    token = LearnedToken("<rex>", {NAME: encoder.vocabulary()[ids]})
    prompts, rows = spelled(encoder, ["a <rex>"], token)
    wrapped = encoder.wrap_ids([*encoder.segment_ids("a"), *ids])
    with torch.no_grad():
        expected = pipeline.text_encoder(torch.tensor([wrapped])).last_hidden_state
    hidden = encoder.hidden_states(prompts, rows)[:, : len(wrapped)]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


# Half precision


def test_in_bfloat16_learned_rows_and_their_gradient_stay_single(weights: Path) -> None:
    encoder = load_encoder(weights, torch.bfloat16)
    prompts, rows = spelled(encoder, ["a red <rex>"], random_token())
    states, slope = states_and_slope(encoder, prompts, rows, counted(prompts))
    assert states.dtype == slope.dtype == encoder.vocabulary().dtype == torch.float32
    assert bool(slope.any())


def test_in_bfloat16_the_states_are_those_of_a_model_loaded_in_it(
    encoder: GemmaTextEncoder, weights: Path
) -> None:
    """No further from those in float32, too."""
    half = load_encoder(weights, torch.bfloat16)
    model = Gemma2Model.from_pretrained(
        weights / "text_encoder", dtype=torch.bfloat16, attn_implementation="eager"
    )
    words = spelled(half, ["a photo of a red dog"])
    length = int(words[0].length)
    with torch.no_grad():
        reference = model(words[0].ids[:, :length]).last_hidden_state.float()
    exact, actual = (each.hidden_states(*words)[:, :length] for each in (encoder, half))
    torch.testing.assert_close(actual, reference, rtol=0.05, atol=0.05)
    assert float((actual - exact).norm()) < 1.1 * float((reference - exact).norm())


def test_layers_do_not_compute_in_float16(encoder: GemmaTextEncoder, weights: Path) -> None:
    """Gemma 2 overflows in it."""
    words = spelled(encoder, ["a photo of a red dog"])
    half = load_encoder(weights, torch.float16)
    assert torch.equal(half.hidden_states(*words), encoder.hidden_states(*words))
