"""The miniature's tokenizer, a CLIP's, whose words are the world's words."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from dti_engine.miniature.world.looks import breeds
from dti_engine.miniature.world.scenes import example

LENGTH = 77
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def world_words(num_captions: int = 20_000) -> list[str]:
    """Every word of the captions, breeds included, sorted."""
    captions = (example(seed).caption for seed in range(num_captions))
    words = itertools.chain.from_iterable(each.replace(",", " ").split() for each in captions)
    return sorted({*words, *breeds()})


def new_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Byte-level BPE as CLIP's, trained until each word is one token; EOS has the highest id."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_EOS))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(words)
    # Last letters are named beforehand, in an order that is the same in every run: the trainer
    # would number them as a hash map has them, and pieces of equal count are merged by number.
    ends = dict.fromkeys(f"{word[-1]}</w>" for word in reversed(words))
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,  # more than there are pieces to merge
        end_of_word_suffix="</w>",
        special_tokens=[*alphabet, *ends],
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    learned = bpe.get_vocab()
    # Every byte also ends a word, so that no text is unknown.
    pieces = [
        *alphabet,
        *(f"{byte}</w>" for byte in alphabet),
        *sorted(learned, key=learned.__getitem__),
    ]
    names = [*dict.fromkeys(pieces), _BOS, _EOS]
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    build: Any = CLIPTokenizer  # its annotations want merges as they are in a file
    vocab = {name: number for number, name in enumerate(names)}
    return build(vocab=vocab, merges=merges, model_max_length=LENGTH)


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """(N, LENGTH) int64, with BOS, EOS and padding."""
    wrapped = tokenizer(list(captions), padding="max_length", max_length=LENGTH)
    return torch.tensor(wrapped["input_ids"])
