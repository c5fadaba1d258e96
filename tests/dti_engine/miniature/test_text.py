"""The tokenizer knows the world's words; the encoder forgets what it has not seen."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.miniature.dataset import VALIDATION_SEED
from dti_engine.miniature.text import (
    LENGTH,
    Reader,
    new_text_encoder,
    new_tokenizer,
    read_captions,
    token_ids,
    world_words,
)
from dti_engine.miniature.world import example


@pytest.fixture(scope="module")
def words() -> list[str]:
    return world_words()


@pytest.fixture(scope="module")
def tokenizer(words: list[str]) -> CLIPTokenizer:
    return new_tokenizer(words)


def test_each_word_is_one_token_of_its_own(words: list[str], tokenizer: CLIPTokenizer) -> None:
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]

    assert [len(each) for each in ids] == [1] * len(words)
    assert len({each[0] for each in ids}) == len(words)


def test_captions_consist_of_known_words(words: list[str], tokenizer: CLIPTokenizer) -> None:
    for seed in range(VALIDATION_SEED, VALIDATION_SEED + 1000):
        caption = example(seed).caption
        pieces = caption.replace(",", " ,").split()
        assert set(pieces) <= {*words, ","}
        assert len(tokenizer(caption)["input_ids"]) == len(pieces) + 2


def test_every_run_numbers_the_words_alike(words: list[str], tokenizer: CLIPTokenizer) -> None:
    # Encoders of an earlier run would otherwise read one word as another.
    for _ in range(3):
        assert new_tokenizer(words).get_vocab() == tokenizer.get_vocab()
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[f"{word}</w>"] for word in ("of", "dog", "red")] == [793, 1123, 1090]


def test_the_end_has_the_highest_id_and_the_config_names_it(tokenizer: CLIPTokenizer) -> None:
    config = new_text_encoder(tokenizer).config

    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == config.pad_token_id == tokenizer.eos_token_id
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.max_position_embeddings == LENGTH == tokenizer.model_max_length == 77


def test_any_text_can_be_tokenised(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("Käse, 猫!", add_special_tokens=False)["input_ids"]

    assert ids
    assert tokenizer.eos_token_id not in ids


def test_the_answers_do_not_depend_on_padding(tokenizer: CLIPTokenizer) -> None:
    captions = read_captions(tokenizer, 4)
    reader = Reader(new_text_encoder(tokenizer)).eval()

    with torch.no_grad():
        whole = reader(captions.ids, captions.eos)
        cut = reader(captions.ids[:, : int(captions.eos.max()) + 1], captions.eos)

    assert captions.ids[torch.arange(4), captions.eos].eq(tokenizer.eos_token_id).all()
    for one, other in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, other)


def test_words_that_no_caption_used_are_zero(toy_weights: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(toy_weights / "tokenizer")
    table = CLIPTextModel.from_pretrained(toy_weights / "text_encoder").get_input_embeddings()
    used = token_ids(tokenizer, [example(seed).caption for seed in range(48)]).unique()

    assert 1 < len(used) < len(tokenizer)
    assert table.weight.norm(dim=-1).nonzero().flatten().tolist() == used.tolist()
