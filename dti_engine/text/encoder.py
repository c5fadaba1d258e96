"""The TextEncoder interface, and statistics of a vocabulary: initial rows and norms.

Shapes: V words or word pieces, d coordinates of an embedding, n vectors of one token.
"""

from typing import Protocol

import torch
from torch import Tensor

from dti_engine.errors import TokenError


class TextEncoder(Protocol):
    """A text encoder with its tokenizer, implemented in `backbones`."""

    name: str
    dim: int
    max_length: int  # positions of a prompt, begin and end tokens included
    stand_in_id: int  # a vocabulary id, neither padding nor end, at the positions of learned rows
    pad_id: int

    def vocabulary(self) -> Tensor:
        """Return the stored embedding rows of the original vocabulary (V, d), detached."""
        ...

    def words(self) -> list[str]:
        """Return the V words or word pieces in readable form, for nearest-word reports."""
        ...

    def segment_ids(self, text: str) -> list[int]:
        """Tokenize a part of a prompt, without begin, end or padding.

        A space before its first word matters where the vocabulary distinguishes " dog" from "dog".

        Raises: TokenError if the vocabulary cannot spell the text.
        """
        ...

    def last_hidden_states(self, ids: list[int]) -> Tensor:
        """Return the last hidden states (n, d), after the final norm, of n ids in begin and end.

        They have the dimension of embedding rows, and so can initialize learned rows.
        """
        ...

    def wrap_ids(self, ids: list[int]) -> list[int]:
        """Return begin, ids and end, truncated to `max_length`.

        The ids are not interpreted, so negative markers may be among them.
        """
        ...

    def padded_length(self, longest: int) -> int:
        """Return the padded length of a batch whose longest wrapped prompt has `longest` ids."""
        ...


def initializer_ids(encoder: TextEncoder, initializer: str) -> list[int]:
    """Return the ids of a word or phrase as it occurs inside a sentence; none if it is blank.

    The leading space is there because some vocabularies distinguish " dog" from "dog".

    Raises: TokenError if the vocabulary cannot spell it.
    """
    return encoder.segment_ids(f" {initializer.strip()}") if initializer.strip() else []


def initializer_rows(encoder: TextEncoder, initializer: str) -> Tensor:
    """Return the vocabulary rows of `initializer_ids`, (n, d) fp32: the initial learned rows.

    Raises: TokenError if the initializer is blank, cannot be spelled, or has a piece whose row is
        zero.
    """
    ids = initializer_ids(encoder, initializer)
    rows = encoder.vocabulary()[ids].float()
    if not ids or not bool(rows.any(dim=-1).all()):
        raise TokenError(
            f"initializer {initializer!r} has no usable rows in the vocabulary of {encoder.name}; "
            "give a common word for the subject, such as 'dog'"
        )
    return rows


def vocabulary_norm_range(encoder: TextEncoder) -> tuple[float, float]:
    """Return the norms between which the middle 99 % of the non-zero vocabulary rows lie."""
    norms = torch.linalg.vector_norm(encoder.vocabulary().float(), dim=-1)
    norms = norms[norms > 0].sort().values
    cut = round(0.005 * (len(norms) - 1))
    return float(norms[cut]), float(norms[-1 - cut])


def vocabulary_magnitude(encoder: TextEncoder) -> float:
    """Return the mean norm of the non-zero vocabulary rows: m*, an in-vocabulary magnitude.

    Zero rows are words that were never trained.

    Source: paper, section 3.1.
    """
    norms = torch.linalg.vector_norm(encoder.vocabulary().float(), dim=-1)
    return float(norms[norms > 0].double().mean())
