"""Our way through CLIP against transformers' own."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ModelLoadError, TokenError
from dti_engine.text.encoder import TextEncoder
from dti_engine.text.prompts import PromptEncoding, bind, tokenize
from dti_engine.text.tokens import LearnedToken

PROMPTS = ["", "a photo of a red dog on the beach", "dog, cat & bird!  2 x", "dog " * 100]


@pytest.fixture(scope="module")
def encoder(tiny_backbone: Backbone) -> TextEncoder:
    return tiny_backbone.text_encoders["text_encoder"]


def test_ids_are_those_of_the_tokenizer(encoder: TextEncoder, tiny_checkpoint: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_checkpoint / "tokenizer")
    expected = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77)["input_ids"]
    spelled = tokenize(PROMPTS, {encoder.name: encoder}, [{}] * len(PROMPTS))
    assert spelled.inputs[encoder.name].ids.tolist() == expected


def test_an_instruction_is_none_of_its_business(encoder: TextEncoder) -> None:
    plain, instructed = (
        tokenize(PROMPTS, {encoder.name: encoder}, [{}] * len(PROMPTS), [reading] * len(PROMPTS))
        for reading in (PromptEncoding(), PromptEncoding(instruction=True))
    )
    assert torch.equal(plain.inputs[encoder.name].ids, instructed.inputs[encoder.name].ids)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_learned_rows_the_states_are_those_of_transformers(
    tiny_backbone: Backbone, tiny_checkpoint: Path, attention: str
) -> None:
    """Bit for bit with the attention in use, to rounding with the one that spells out its mask."""
    model = CLIPTextModel.from_pretrained(
        tiny_checkpoint / "text_encoder", attn_implementation=attention
    )
    batch, rows = bind(PROMPTS, [{}] * len(PROMPTS), tiny_backbone.text_encoders)
    with torch.no_grad():
        expected = model(batch.inputs["text_encoder"].ids).last_hidden_state
    hidden = tiny_backbone.encode_prompts(batch, rows).hidden
    if attention == "sdpa":
        assert torch.equal(hidden, expected)
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_a_learned_row_changes_nothing_before_it(tiny_backbone: Backbone) -> None:
    tokens = [{"<rex>": LearnedToken("<rex>", {"text_encoder": torch.randn(1, 32)})} for _ in "ab"]
    batch, rows = bind(["a red <rex> dog"] * 2, tokens, tiny_backbone.text_encoders)
    one, other = tiny_backbone.encode_prompts(batch, rows).hidden
    assert torch.equal(one[:3], other[:3])
    assert not bool((one[3:] == other[3:]).all(dim=-1).any())


def test_words_are_whole_and_pieces_are_marked(encoder: TextEncoder) -> None:
    words = encoder.words()
    assert {"dog", "animal", "d-", "<|endoftext|>"} <= set(words)
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("text", ["a <|endoftext|> dog", "<|startoftext|>"])
def test_marks_of_the_tokenizer_are_no_text(encoder: TextEncoder, text: str) -> None:
    with pytest.raises(TokenError, match="cannot read as text"):
        encoder.segment_ids(text)


def test_checkpoints_with_the_older_names_of_the_weights_load(
    tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The published ones: a level `text_model`, and the position numbers stored."""
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "text_encoder" / "model.safetensors"
    renamed = {f"text_model.{name}": weight for name, weight in load_file(path).items()}
    renamed["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(renamed, path, metadata={"format": "pt"})
    older = load_backbone(tmp_path)
    batch, rows = bind(PROMPTS, [{}] * len(PROMPTS), older.text_encoders)
    expected = tiny_backbone.encode_prompts(batch, rows).hidden
    assert torch.equal(older.encode_prompts(batch, rows).hidden, expected)


def test_rows_that_no_token_has_are_no_words(
    tiny_backbone: Backbone, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Some tables are padded to a round size."""
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    model = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    model.resize_token_embeddings(704, mean_resizing=False)
    model.save_pretrained(tmp_path / "text_encoder")
    padded = load_backbone(tmp_path)
    (found,), (expected,) = padded.text_encoders.values(), tiny_backbone.text_encoders.values()
    assert found.words() == expected.words()
    assert torch.equal(found.vocabulary(), expected.vocabulary())
    assert padded.fingerprint == tiny_backbone.fingerprint


def test_a_tokenizer_of_another_model_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    tokenizer.add_tokens("<added>")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ModelLoadError, match="knows 660 tokens and its model 659"):
        load_backbone(tmp_path)
