"""Tokenizers of the published sizes, with the words of the benchmarks' prompts."""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, GemmaTokenizer

from dti_engine.backbones.sana import instruction
from dti_engine.text.captions import CAPTION_TEMPLATES

PROMPT = "a photo of {} in the snow"  # the prompt of generated images

_GEMMA_SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")


def clip_tokenizer(size: int, *, pad_with_mark: bool = False) -> CLIPTokenizer:
    """Return a CLIP tokenizer in which each word of the captions is one token.

    Begin and end have the highest ids. With `pad_with_mark`, padding is "!", as in the second
    tokenizer of SDXL, instead of the end.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_words(), trainer)
    names = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *sorted(bpe.get_vocab())]
    names = [*_filled(names, size - 2, "{}</w>"), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=_merges(bpe),
        model_max_length=77,
        pad_token="!" if pad_with_mark else "<|endoftext|>",
    )


def gemma_tokenizer(size: int) -> GemmaTokenizer:
    """Return a Gemma tokenizer in which each word of captions and SANA's instruction is a token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2600, initial_alphabet=list("0123456789,.!&\n"), show_progress=False
    )
    words = (*_words(), *instruction().split())
    bpe.train_from_iterator([f"{blank}{word}" for word in words for blank in ("", "▁")], trainer)
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    names = [*_GEMMA_SPECIAL_TOKENS, *in_bytes, *sorted(bpe.get_vocab())]
    return GemmaTokenizer(
        vocab={name: number for number, name in enumerate(_filled(names, size, "▁{}"))},
        merges=_merges(bpe),
        add_bos_token=True,
        padding_side="right",
    )


def _words() -> Iterable[str]:
    prompts = [each for family in CAPTION_TEMPLATES.values() for each in family]
    return [word for prompt in (*prompts, PROMPT) for word in prompt.replace("{}", "").split()]


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    return [(first, second) for first, second in json.loads(bpe.to_str())["model"]["merges"]]


def _filled(names: Iterable[str], size: int, template: str) -> list[str]:
    """Return the distinct names, filled up to `size` with words that no prompt has."""
    distinct = list(dict.fromkeys(names))
    return distinct + [template.format(f"zz{n}") for n in range(size - len(distinct))]
