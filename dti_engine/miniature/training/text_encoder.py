"""The miniature's text encoder, a CLIP, and its tokenizer, whose words are the world's words.

As in Stable Diffusion, the encoder is trained first and frozen before the denoiser uses it. CLIP
learns by contrast with images; here the state at EOS learns to answer every question
(`scorer.labels`) about the caption's scene, as far as the caption tells. Captions bind words across
a distance, so the answers need the encoder's layers.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dti_engine.miniature.scorer import Answers, labels, mark
from dti_engine.miniature.training.loop import LossOf, StepLoss, batch_indices
from dti_engine.miniature.world.scenes import example
from dti_engine.miniature.world.vocabulary import breeds

LENGTH = 77
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def world_words(num_captions: int = 20_000) -> list[str]:
    """Return every word of the captions, breeds included, sorted."""
    captions = (example(seed).caption for seed in range(num_captions))
    words = itertools.chain.from_iterable(each.replace(",", " ").split() for each in captions)
    return sorted({*words, *breeds()})


def new_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Return a byte-level BPE like CLIP's in which each word is a token; EOS has the highest id."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_EOS))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(words)
    # The last letters of words are numbered beforehand, in a fixed order: the trainer would number
    # them in the order of a hash map, and merges pieces of equal count by number, so runs would
    # differ.
    ends = dict.fromkeys(f"{word[-1]}</w>" for word in reversed(words))
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,  # more than there are pieces
        end_of_word_suffix="</w>",
        special_tokens=[*alphabet, *ends],
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    learned = bpe.get_vocab()
    # Every byte may also end a word, so that no text is unknown.
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
    """Return ids (N, LENGTH) int64, with BOS, EOS and padding."""
    wrapped = tokenizer(list(captions), padding="max_length", max_length=LENGTH)
    return torch.tensor(wrapped["input_ids"])


HIDDEN = 128
LAYERS = 6
_CHUNK = 256  # captions per call of the encoder
_SHOWN = ("style", "centre.kind", "left.kind", "left.primary")


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return a randomly initialised CLIP that pools at the true EOS, which the config names."""
    marks: Any = tokenizer  # annotated as if a mark could have several ids
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=marks.bos_token_id,
        eos_token_id=marks.eos_token_id,
        pad_token_id=marks.pad_token_id,
        projection_dim=HIDDEN,
    )
    return CLIPTextModel(config)


@dataclass(frozen=True, eq=False)
class Captions:
    """Captions of the world as token ids, and the answers to learn from each.

    ids: (N, LENGTH), eos: (N,) position of the first EOS, answers: (N, questions).
    """

    ids: Tensor
    eos: Tensor
    answers: Tensor

    def first(self, count: int) -> "Captions":
        return Captions(self.ids[:count], self.eos[:count], self.answers[:count])


def read_captions(tokenizer: CLIPTokenizer, count: int) -> Captions:
    """Return the captions of examples 0 to count - 1."""
    examples = [example(seed) for seed in range(count)]
    ids = token_ids(tokenizer, [each.caption for each in examples])
    end: Any = tokenizer.eos_token_id
    eos = torch.eq(ids, end).int().argmax(-1)
    return Captions(ids, eos, torch.tensor([labels(each.scene) for each in examples]))


class Reader(nn.Module):
    """The text encoder with a head that is discarded after training."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.answers = Answers(HIDDEN)

    def forward(self, ids: Tensor, eos: Tensor) -> list[Tensor]:
        """Return the logits per question of token ids (B, S) with EOS at positions (B,)."""
        hidden = self.encoder(ids).last_hidden_state
        return self.answers(hidden[torch.arange(len(ids)), eos])


def make_reader_loss(
    reader: Reader, captions: Captions, batch_size: int, device: torch.device
) -> LossOf:
    """Return the loss over batches of captions.

    Positions after the longest caption are cut off: EOS does not attend to them.
    """

    def loss_of(step: int) -> StepLoss:
        chosen = torch.from_numpy(batch_indices(step, batch_size, len(captions.ids), stream=2))
        eos = captions.eos[chosen]
        ids = captions.ids[chosen, : int(eos.max()) + 1].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = reader(ids, eos.to(device))
        marking = mark(logits, captions.answers[chosen].to(device))
        return StepLoss(
            marking.loss / 4, {question: marking.right[question] for question in _SHOWN}
        )

    return loss_of


@torch.no_grad()
def zero_unseen_rows(encoder: CLIPTextModel, ids: Tensor) -> None:
    """Set the rows of tokens that do not occur in `ids` to zero.

    Some rows of CLIP's own table are zero too. They carry no information, and a mean over the
    norms of the table leaves them out.
    """
    table = cast(nn.Embedding, encoder.get_input_embeddings()).weight
    seen = torch.zeros(len(table), dtype=torch.bool)
    seen[ids.unique()] = True
    table[~seen] = 0.0


@torch.no_grad()
def encode_captions(
    encoder: CLIPTextModel,
    ids: Tensor,
    device: torch.device,
    *,
    on_captions: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Encode token ids (N, LENGTH) to last hidden states (N, LENGTH, HIDDEN), half precision."""
    states: list[Tensor] = []
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            states.append(encoder(chunk).last_hidden_state.half().cpu())
        on_captions(start + len(chunk))
    return torch.cat(states)


@torch.no_grad()
def encode_empty(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, device: torch.device) -> Tensor:
    """Return the empty caption's last hidden states (LENGTH, HIDDEN)."""
    ids = token_ids(tokenizer, [""]).to(device)
    return encoder(ids).last_hidden_state[0].cpu()
