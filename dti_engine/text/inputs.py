"""Prompts as input of text encoders: vocabulary ids, and learned rows by index.

Shapes: B samples, S positions, d coordinates of an embedding, R rows of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self, TypeAlias

import torch
from torch import Tensor

Rows: TypeAlias = Mapping[str, Tensor]
"""Encoder name -> (R, d) fp32 learned rows; an explicit argument of every call that uses them."""


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """Prompts as input of one text encoder.

    ids: (B, S) int64, all in the vocabulary.
    row: (B, S) int64, the index of the learned row that replaces the embedding there, or -1.
    length: (B,) int64, positions before the padding.
    pooled_index: (B,) int64, the position whose last state is the pooled embedding.
    has_instruction: (B,) bool, true if the model's instruction precedes the prompt.
    """

    ids: Tensor
    row: Tensor
    length: Tensor
    pooled_index: Tensor
    has_instruction: Tensor

    @classmethod
    def of_ids(cls, ids: Tensor, length: int) -> Self:
        """Return one prompt without learned rows or instruction; ids: (1, S), padded."""
        end = torch.tensor([length], device=ids.device)
        plain = torch.zeros_like(end, dtype=torch.bool)
        return cls(ids, torch.full_like(ids, -1), end, end - 1, plain)

    def to(self, device: torch.device | str) -> "EncoderInput":
        return EncoderInput(*(tensor.to(device) for tensor in self._tensors()))

    def select(self, samples: Tensor) -> "EncoderInput":
        """Return the samples with these indices (N,) int64."""
        return EncoderInput(*(tensor[samples] for tensor in self._tensors()))

    @staticmethod
    def concat(parts: Sequence["EncoderInput"]) -> "EncoderInput":
        """Join batches in order and pad them to one length.

        Lengths differ only for encoders that mask padding, so the padding changes nothing.
        """
        longest = max(part.ids.shape[1] for part in parts)
        wide = [
            EncoderInput(
                # Any id of the vocabulary will do, as these positions are masked; a row must not be
                # used.
                _padded(part.ids, longest, 0),
                _padded(part.row, longest, -1),
                part.length,
                part.pooled_index,
                part.has_instruction,
            )
            for part in parts
        ]
        columns = zip(*(part._tensors() for part in wide), strict=True)
        return EncoderInput(*map(torch.cat, columns))

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """The same B prompts for every text encoder of a model: encoder name -> `EncoderInput`."""

    inputs: Mapping[str, EncoderInput]

    def to(self, device: torch.device | str) -> "PromptBatch":
        return PromptBatch({name: inputs.to(device) for name, inputs in self.inputs.items()})

    def select(self, samples: Tensor) -> "PromptBatch":
        """Return the samples with these indices (N,) int64."""
        return PromptBatch({name: inputs.select(samples) for name, inputs in self.inputs.items()})

    @staticmethod
    def concat(batches: Sequence["PromptBatch"]) -> "PromptBatch":
        """Join batches in order."""
        return PromptBatch(
            {
                name: EncoderInput.concat([batch.inputs[name] for batch in batches])
                for name in batches[0].inputs
            }
        )


def inject(embedded: Tensor, row: Tensor, rows: Tensor) -> Tensor:
    """Replace embeddings by learned rows where `row` names one, and keep them elsewhere.

    This is the only place where learned rows enter a model. It is differentiable in rows, which
    are cast to the encoder's dtype only here. It has no branch on the values of `row`, so that it
    can be captured in a CUDA graph, and `where` keeps a non-finite row or gradient of one sample
    away from the others.

    Shapes: embedded (B, S, d), row (B, S) int64, rows (R, d) -> (B, S, d).
    """
    # An index into an empty table is an error, also where `where` would drop its result.
    if not len(rows):
        return embedded
    # -1 would be the last row. It becomes row 0 here, whose value and gradient `where` drops.
    learned = rows.to(embedded.dtype)[row.clamp(min=0)]
    return torch.where(row.unsqueeze(-1) >= 0, learned, embedded)


def _padded(values: Tensor, length: int, value: int) -> Tensor:
    """Pad (B, S) to (B, length)."""
    return torch.nn.functional.pad(values, (0, length - values.shape[1]), value=value)
