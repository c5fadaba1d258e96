"""Gemma 2 as a text encoder that takes learned rows as an argument, for families that read with it.

Gemma looks back only, so the begin of all prompts, and an instruction that some have before them,
are read once, when the model is loaded (`prefix`). Padding changes nothing before it, hence batches
are no longer than they must be.

Shapes: B samples, S positions, R rows of a batch, d coordinates of an embedding.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizer

from dti_engine.backbones.checkpoint import Checkpoint, require_rows
from dti_engine.backbones.prefix import PrefixedDecoder
from dti_engine.encoder_inputs import EncoderInput, inject
from dti_engine.errors import TokenError

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

        Raises: BackboneLoadError if the tokenizer knows more tokens than the model.
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
    def states(self, ids: list[int]) -> Tensor:
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
        states = self._decoder.states(embedded, prompts.instructed)
        return torch.cat([first, states], dim=1).to(self._table.dtype)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _embedded(self, ids: Tensor, row: Tensor, rows: Tensor) -> Tensor:
        embedded = inject(torch.nn.functional.embedding(ids, self._table), row, rows)
        return (embedded * self._scale).to(self._model.norm.weight.dtype)


def load_gemma(
    checkpoint: Checkpoint,
    part: str,
    tokenizer_part: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    instruction: str,
) -> GemmaTextEncoder:
    """Embeddings are in float32 always, as learned rows stand among them; layers in bfloat16 if
    dtype is that, else in float32: Gemma 2 overflows in float16.

    Raises: BackboneLoadError if a part is missing, damaged or does not fit.
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
