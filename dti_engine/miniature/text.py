"""The miniature's text side: a CLIP tokenizer whose words are the world's words, and a CLIP text encoder.

As in Stable Diffusion, the encoder is trained first and frozen before the denoiser sees it. CLIP learns by contrast
with pictures; here the state at EOS learns to answer every question (`labels`) about the picture that the caption
belongs to. Captions bind words across a distance, so the answers need the encoder's layers.
"""

import itertools
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dti_engine.miniature.dataset import batch_indices
from dti_engine.miniature.labels import Answers, labels, mark
from dti_engine.miniature.looks import breeds
from dti_engine.miniature.world import example

HIDDEN = 128
LAYERS = 6
LENGTH = 77
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def world_words(num_captions: int = 20_000) -> list[str]:
    """Every word of the captions, breeds included, sorted."""
    captions = (example(seed).caption for seed in range(num_captions))
    words = set(
        itertools.chain.from_iterable(caption.replace(",", " ").split() for caption in captions)
    )
    return sorted(words | breeds().keys())


def new_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Byte-level BPE as CLIP's, trained until each word is one token; EOS has the highest id."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_EOS))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(sorted(words), trainer)
    learned = bpe.get_vocab()
    # Every byte also ends a word, so that no text is unknown.
    names = [*sorted(alphabet), *(f"{letter}</w>" for letter in sorted(alphabet))]
    names += [
        token for token in sorted(learned, key=learned.__getitem__) if token not in set(names)
    ]
    vocab = {name: number for number, name in enumerate([*names, _BOS, _EOS])}
    merges = [tuple(pair) for pair in _merges(bpe)]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _merges(bpe: Tokenizer) -> Iterator[tuple[str, str]]:
    import json

    for merge in json.loads(bpe.to_str())["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        yield left, right


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Randomly initialised; pools at the true EOS, which the config names."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=HIDDEN,
    )
    return CLIPTextModel(config)


class Captions:
    """Token ids and answers of the world's captions, by seed; made when first asked for."""

    def __init__(self, tokenizer: CLIPTokenizer, count: int) -> None:
        examples = [example(seed) for seed in range(count)]
        self.ids = np.asarray(
            tokenizer(
                [each.caption for each in examples], padding="max_length", max_length=LENGTH
            )["input_ids"]
        )  # (count, LENGTH)
        self.answers = torch.tensor([labels(each.scene) for each in examples])
        self.eos = torch.from_numpy((self.ids == tokenizer.eos_token_id).argmax(-1))


class Reader(nn.Module):
    """The text encoder with a head that is thrown away after training."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.answers = Answers(HIDDEN)

    def forward(self, ids: Tensor, eos: Tensor) -> list[Tensor]:
        hidden = self.encoder(ids).last_hidden_state
        return self.answers(hidden[torch.arange(len(ids)), eos])


def make_reader_loss(reader: Reader, captions: Captions, batch_size: int, device: torch.device):
    """`loss_of(step)` for `loop.fit`. Positions behind the longest caption are cut: EOS cannot see them."""

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = batch_indices(step, batch_size, len(captions.ids), stream=2)
        eos = captions.eos[chosen]
        ids = torch.from_numpy(captions.ids[chosen, : int(eos.max()) + 1]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = reader(ids, eos.to(device))
        marking = mark(logits, captions.answers[chosen].to(device))
        return marking.loss / 4, {
            q: marking.right[q] for q in ("style", "centre.kind", "left.kind", "left.primary")
        }

    return loss_of


@torch.no_grad()
def zero_unseen_rows(encoder: CLIPTextModel, captions: Captions) -> None:
    """Rows that no caption used become zero, as in CLIP's own table, so that m* is measured on trained rows only."""
    table = encoder.get_input_embeddings().weight
    seen = torch.zeros(len(table), dtype=torch.bool)
    seen[np.unique(captions.ids)] = True
    table[~seen] = 0.0
