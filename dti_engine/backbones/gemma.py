"""Gemma 2 as a text encoder that takes learned rows as an argument, for families that read with it.

Gemma looks back only, so the begin of all prompts, and an instruction that some have before them,
are read once, when the model is loaded (`prefix`). Padding changes nothing before it, hence batches
are no longer than they must be.

Shapes: B samples, S positions, R rows of a batch, d coordinates of an embedding.

The layers of Gemma 2, and keys and values of what stands before every prompt, read once.

A decoder looks back only, so that a prefix has the same states whatever comes behind it.

Shapes: B samples, S positions, P positions of the prefix, K = P + S of keys, d coordinates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizer

from dti_engine.backbones.checkpoint import ModelFolder, require_rows
from dti_engine.errors import TokenError
from dti_engine.text.inputs import EncoderInput, inject


class PrefixedDecoder:
    """Reads inputs behind the prefix, or behind its first position alone, both in one batch.

    `first` is the last hidden state of the prefix's first position, (1, 1, d): that of all samples,
    as it sees nothing but itself. The layers are run by themselves, because the model's `forward`
    takes neither masks for such a mixture nor a cache that is only read.
    """

    def __init__(self, model: Gemma2Model, prefix: Tensor) -> None:
        """prefix: (1, P, d), embedded. The model lies on the device where it will stay, and attends
        by "eager": in some versions of transformers, "sdpa" leaves out the cap on logits.
        """
        self._model: Any = model
        self._length = prefix.shape[1]
        positions = torch.arange(self._length, device=prefix.device)[None]
        visible = torch.ones_like(positions, dtype=torch.bool)
        recording = _Recording()
        with torch.no_grad():
            masks = self._masks(positions, positions, visible)
            self.first = self._through(prefix, positions, masks, recording)[:, :1].clone()
        self._stored = _Stored(recording.layers)

    def states(self, embedded: Tensor, whole: Tensor) -> Tensor:
        """Last hidden states of inputs (B, S, d) after the final norm; differentiable in them.

        whole: (B,) bool, whether all of the prefix stands before a sample, or its first position.
        """
        size, length = embedded.shape[:2]
        device = embedded.device
        before = torch.arange(self._length, device=device).expand(size, -1)
        start = torch.where(whole, self._length, 1)
        positions = start[:, None] + torch.arange(length, device=device)
        visible = torch.cat(
            [whole[:, None] | (before == 0), torch.ones_like(positions, dtype=torch.bool)], dim=1
        )
        masks = self._masks(positions, torch.cat([before, positions], dim=1), visible)
        return self._through(embedded, positions, masks, self._stored)

    def _masks(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Mapping[str, Tensor]:
        """Kind of layer -> (B, 1, S, K), added to the logits of attention.

        Shapes: positions of queries (B, S) and keys (B, K), visible (B, K) bool.
        """
        distance = queries[:, :, None] - keys[:, None, :]
        seen = {"full_attention": (distance >= 0) & visible[:, None, :]}
        if window := self._model.config.sliding_window:
            seen["sliding_attention"] = seen["full_attention"] & (distance < window)
        dtype = self._model.norm.weight.dtype
        nothing = torch.zeros((), dtype=dtype, device=queries.device)
        return {
            kind: torch.where(each, nothing, torch.finfo(dtype).min)[:, None]
            for kind, each in seen.items()
        }

    def _through(
        self,
        hidden: Tensor,
        positions: Tensor,
        masks: Mapping[str, Tensor],
        keys: "_Recording | _Stored",
    ) -> Tensor:
        rotations = self._model.rotary_emb(hidden, positions)
        kinds: list[str] = self._model.config.layer_types
        for layer, kind in zip(self._model.layers, kinds, strict=True):
            hidden = layer(
                hidden,
                attention_mask=masks[kind],
                position_embeddings=rotations,
                position_ids=positions,
                past_key_values=keys,
            )
        return self._model.norm(hidden)


# What layers take for a cache is anything with this method, by which they add keys and values,
# (B, heads, S, d of a head) each, and get those that they shall attend to.


class _Recording:
    """Keeps those of every layer."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values


class _Stored:
    """Puts stored ones, of one sample, before those of every sample, and keeps nothing."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self._layers = tuple(layers)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        before_keys, before_values = (
            each.expand(len(keys), -1, -1, -1) for each in self._layers[layer]
        )
        return torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)


_MAX_LENGTH = 300  # diffusers, SanaPipeline: begin included
_LENGTH_STEP = 32  # few different shapes, for allocators and compiled kernels


class GemmaTextEncoder:
    """One Gemma model and its tokenizer, which no call changes. Implements `TextEncoder`.

    Text is read in lower case. Embeddings are added up in the dtype of their table, and results
    have it too, whatever the layers compute in.
    """

    def __init__(
        self, name: str, model: Gemma2Model, tokenizer: GemmaTokenizer, instruction: str = " "
    ) -> None:
        """The model is as `PrefixedDecoder` wants it.

        instruction: ends in a blank, which the first word of a prompt takes along.

        Raises: ModelLoadError if the tokenizer knows more tokens than the model.
        """
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        self._table: Tensor = self._model.embed_tokens.weight
        require_rows(name, tokenizer, self._table)
        self._num_words = len(tokenizer)
        self.name = name
        self.dim: int = self._table.shape[1]
        self.max_length = _MAX_LENGTH
        self.stand_in_id: int = self._tokenizer.bos_token_id
        self.pad_id: int = self._tokenizer.pad_token_id
        # Where a module would apply it has changed between versions of transformers.
        self._scale: float = self.dim**0.5
        added = self._tokenizer.added_tokens_decoder.items()
        self._marks = {number for number, token in added if token.special}
        self._marks |= set(self._tokenizer.all_special_ids)
        before = [[self.stand_in_id, *self._ids(instruction.removesuffix(" "))]]
        ids = torch.tensor(before, device=self._table.device)
        prefix = self._embedded(ids, torch.full_like(ids, -1), self._table[:0])
        self._decoder = PrefixedDecoder(model, prefix)

    def vocabulary(self) -> Tensor:
        return self._table.detach()[: self._num_words]

    def words(self) -> list[str]:
        """Whole words and beginnings as they are; a piece that goes on begins with "-"."""
        pieces: list[str] = self._tokenizer.convert_ids_to_tokens(list(range(self._num_words)))
        return [
            piece if piece.startswith("<") else piece[1:] if piece.startswith("▁") else f"-{piece}"
            for piece in pieces
        ]

    def segment_ids(self, text: str) -> list[int]:
        ids = self._ids(text.lower())
        if not self._marks.isdisjoint(ids):
            raise TokenError(
                f"{text!r} holds a mark that {self.name!r} cannot read as text; leave out <bos>, "
                "<eos>, <start_of_turn> and the like"
            )
        return ids

    @torch.no_grad()
    def last_hidden_states(self, ids: list[int]) -> Tensor:
        wrapped = torch.tensor([self.wrap_ids(ids)], device=self._table.device)
        prompt = EncoderInput.of_ids(wrapped, wrapped.shape[1])
        return self.hidden_states(prompt, self._table[:0])[0, 1:]

    def wrap_ids(self, ids: list[int]) -> list[int]:
        """Begin and ids: there is no end."""
        return [self.stand_in_id, *ids[: self.max_length - 1]]

    def padded_length(self, longest: int) -> int:
        """A multiple of 32, or 300: the denoiser does not look at padding."""
        return min(self.max_length, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)

    def hidden_states(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Last hidden states after the final norm; differentiable in rows.

        Of the instruction, where it stands before the prompt, there are no states. Those of padding
        mean nothing.

        Shapes: prompts (B, S), rows (R, d) -> (B, S, d).
        """
        first = self._decoder.first.expand(len(prompts.ids), -1, -1)
        embedded = self._embedded(prompts.ids[:, 1:], prompts.row[:, 1:], rows)
        states = self._decoder.states(embedded, prompts.has_instruction)
        return torch.cat([first, states], dim=1).to(self._table.dtype)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _embedded(self, ids: Tensor, row: Tensor, rows: Tensor) -> Tensor:
        embedded = inject(torch.nn.functional.embedding(ids, self._table), row, rows)
        return (embedded * self._scale).to(self._model.norm.weight.dtype)


def load_gemma(
    checkpoint: ModelFolder,
    part: str,
    tokenizer_part: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    instruction: str,
) -> GemmaTextEncoder:
    """Embeddings are in float32 always, as learned rows stand among them; layers in bfloat16 if
    dtype is that, else in float32: Gemma 2 overflows in float16.

    Raises: ModelLoadError if a part is missing, damaged or does not fit.
    """
    cpu = torch.device("cpu")
    # As stored, since all of it in float32 takes 10 GB, of which 6 are not needed.
    model: Any = checkpoint.model(
        Gemma2Model, part, device=cpu, dtype=None, attn_implementation="eager"
    )
    model.embed_tokens.float()
    for module in (model.layers, model.norm):
        module.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    tokenizer = checkpoint.read(tokenizer_part, _read_tokenizer)
    # Not by its part: other programs take rows of a "text_encoder" for those of a CLIP.
    return GemmaTextEncoder("gemma", model.to(device), tokenizer, instruction)


def _read_tokenizer(folder: Path) -> GemmaTokenizer:
    # Without it, transformers makes one of a few marks, or asks for packages to convert another.
    if not (folder / "tokenizer.json").is_file():
        raise OSError("it has no tokenizer.json")
    return GemmaTokenizer.from_pretrained(folder)
