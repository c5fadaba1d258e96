"""The encoder stops at the true end of a caption, and forgets what it has not seen."""

from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.miniature.training.text_encoder import (
    LENGTH,
    Reader,
    new_text_encoder,
    read_captions,
    token_ids,
)
from dti_engine.miniature.world.scenes import example


def test_the_end_has_the_highest_id_and_the_config_names_it(tokenizer: CLIPTokenizer) -> None:
    config = new_text_encoder(tokenizer).config

    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert config.vocab_size == len(tokenizer)
    assert config.eos_token_id == config.pad_token_id == tokenizer.eos_token_id
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.max_position_embeddings == LENGTH == tokenizer.model_max_length == 77


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
