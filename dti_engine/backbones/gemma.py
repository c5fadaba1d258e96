"""A Gemma 2 text encoder that takes learned rows as an argument, with a cached prefix.

Attention in a decoder is causal, so a prefix has the same states whatever follows it. The keys and
values of the prefix of all prompts (the begin token, and an instruction that some prompts have) are
therefore computed once, when the model is loaded. For the same reason padding at the end changes no
state before it, and batches are only as long as their longest prompt.

Shapes: B samples, S positions, P positions of the prefix, K = P + S positions of keys, R rows of a
batch, d coordinates of an embedding.
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
    """Runs inputs after the whole prefix, or after its first position alone, mixed in one batch.

    `first` is the last hidden state of the prefix's first position, (1, 1, d), the same for all
    samples, as that position attends to itself only. The layers are called one by one, because the
    model's `forward` takes neither the masks of such a mixture nor a read-only cache.
    """

    def __init__(self, model: Gemma2Model, prefix: Tensor) -> None:
        """Compute the keys and values of the embedded prefix, (1, P, d).

        The model must be on its final device, and its attention must be "eager": in some versions
        of transformers, "sdpa" omits the cap on logits.
        """
        self._model: Any = model
        self._length = prefix.shape[1]
        positions = torch.arange(self._length, device=prefix.device)[None]
        visible = torch.ones_like(positions, dtype=torch.bool)
        recording = _Recording()
        # No learned row lies in the prefix, so nothing ever needs a gradient through it.
        with torch.no_grad():
            masks = self._masks(positions, positions, visible)
            # A clone, as a view would keep the states of the whole prefix in memory.
            self.first = self._through(prefix, positions, masks, recording)[:, :1].clone()
        self._stored = _Stored(recording.layers)

    def states(self, embedded: Tensor, whole: Tensor) -> Tensor:
        """Return the last hidden states of inputs (B, S, d) after the final norm; differentiable.

        whole: (B,) bool, whether a sample follows the whole prefix, or only its first position.
        """
        size, length = embedded.shape[:2]
        device = embedded.device
        before = torch.arange(self._length, device=device).expand(size, -1)
        # Positions go on after what the sample sees: rotary embeddings encode distances, so a gap
        # after the begin token would change every state.
        start = torch.where(whole, self._length, 1)
        positions = start[:, None] + torch.arange(length, device=device)
        visible = torch.cat(
            # Every sample sees the begin token, and only one with an instruction the rest of it.
            [whole[:, None] | (before == 0), torch.ones_like(positions, dtype=torch.bool)],
            dim=1,
        )
        masks = self._masks(positions, torch.cat([before, positions], dim=1), visible)
        return self._through(embedded, positions, masks, self._stored)

    def _masks(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Mapping[str, Tensor]:
        """Return kind of layer -> mask (B, 1, S, K), added to the attention logits.

        Shapes: positions of queries (B, S) and keys (B, K), visible (B, K) bool.
        """
        distance = queries[:, :, None] - keys[:, None, :]
        seen = {"full_attention": (distance >= 0) & visible[:, None, :]}
        if window := self._model.config.sliding_window:
            seen["sliding_attention"] = seen["full_attention"] & (distance < window)
        dtype = self._model.norm.weight.dtype
        # Not -inf but the value of transformers' own masks, with which tests compare the states.
        zero = torch.zeros((), dtype=dtype, device=queries.device)
        return {
            kind: torch.where(each, zero, torch.finfo(dtype).min)[:, None]
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


# A layer accepts as its cache any object with `update`, which takes the new keys and values, each
# (B, heads, S, d of a head), and returns those to attend to. transformers' own cache grows with
# each call; here the prompts of a batch share one prefix, and no call may change it for the next.


class _Recording:
    """A cache that records the keys and values of every layer."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values


class _Stored:
    """A read-only cache: puts stored keys and values before those of each sample."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self._layers = tuple(layers)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        before_keys, before_values = (
            each.expand(len(keys), -1, -1, -1) for each in self._layers[layer]
        )
        return torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)


_MAX_LENGTH = 300  # of diffusers' SanaPipeline, begin token included
_LENGTH_STEP = 32  # for few distinct shapes, which helps allocators and compiled kernels


class GemmaTextEncoder:
    """A `TextEncoder` of one Gemma model and its tokenizer, neither of which is ever modified.

    Text is lower-cased. Embeddings are in the dtype of their table, and results have that dtype
    too, whatever dtype the layers compute in.
    """

    def __init__(
        self, name: str, model: Gemma2Model, tokenizer: GemmaTokenizer, instruction: str = " "
    ) -> None:
        """Wrap a model that fulfils the conditions of `PrefixedDecoder`.

        instruction: ends in a blank, which is tokenized with the first word of the prompt.

        Raises:
            ModelLoadError: The tokenizer has more tokens than the model.
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
        # Applied here, as its place in the modules differs between versions of transformers.
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
        """Return the vocabulary for people; a piece that cannot begin a word begins with "-"."""
        pieces: list[str] = self._tokenizer.convert_ids_to_tokens(list(range(self._num_words)))
        return [
            piece if piece.startswith("<") else piece[1:] if piece.startswith("▁") else f"-{piece}"
            for piece in pieces
        ]

    def segment_ids(self, text: str) -> list[int]:
        # Lower-cased, as diffusers' SanaPipeline does before it tokenizes.
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
        """Return the begin token and the ids; Gemma has no end token here."""
        return [self.stand_in_id, *ids[: self.max_length - 1]]

    def padded_length(self, longest: int) -> int:
        """Return a multiple of 32, at most 300: the denoiser masks padding."""
        return min(self.max_length, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)

    def hidden_states(self, prompts: EncoderInput, rows: Tensor) -> Tensor:
        """Return the last hidden states after the final norm; differentiable in rows.

        There are no states for an instruction before the prompt; those of padding have no meaning.

        Shapes: prompts (B, S), rows (R, d) -> (B, S, d).
        """
        # The begin token is a part of the prefix, and its state is the same before every prompt.
        first = self._decoder.first.expand(len(prompts.ids), -1, -1)
        embedded = self._embedded(prompts.ids[:, 1:], prompts.row[:, 1:], rows)
        states = self._decoder.states(embedded, prompts.has_instruction)
        return torch.cat([first, states], dim=1).to(self._table.dtype)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _embedded(self, ids: Tensor, row: Tensor, rows: Tensor) -> Tensor:
        # Injected before the scaling: learned rows have the lengths of the table's rows.
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
    """Load a Gemma 2 model and its tokenizer.

    Embeddings are always float32, since learned rows are injected among them. Layers are bfloat16
    if dtype is, else float32, since Gemma 2 overflows in float16.

    Raises:
        ModelLoadError: A part is missing, damaged or does not fit.
    """
    cpu = torch.device("cpu")
    # Loaded as stored: all of it in float32 would take 10 GB, of which 6 are not needed.
    model: Any = checkpoint.model(
        Gemma2Model, part, device=cpu, dtype=None, attn_implementation="eager"
    )
    model.embed_tokens.float()
    for module in (model.layers, model.norm):
        module.to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    tokenizer = checkpoint.read(tokenizer_part, _read_tokenizer)
    # Not named by its part, since other programs take rows of a "text_encoder" for those of a CLIP.
    return GemmaTextEncoder("gemma", model.to(device), tokenizer, instruction)


def _read_tokenizer(folder: Path) -> GemmaTokenizer:
    # Without it, transformers builds a nearly empty tokenizer, or asks for conversion packages.
    if not (folder / "tokenizer.json").is_file():
        raise OSError("it has no tokenizer.json")
    return GemmaTokenizer.from_pretrained(folder)
