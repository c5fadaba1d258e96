"""A text encoder's own words: what training starts from, and what a learned token is measured by.

Shapes: V words or word pieces, d coordinates of an embedding, n vectors of one token.
"""

from typing import Protocol

import torch
from torch import Tensor

from dti_engine.errors import TokenError


class TextEncoder(Protocol):
    """What the engine asks of a text encoder and its tokenizer; `backbones` implements it."""

    name: str
    dim: int
    max_length: int  # positions of a prompt, begin and end included
    stand_in_id: int  # of the vocabulary, not padding nor end: holds the place of a learned row
    pad_id: int

    def vocabulary(self) -> Tensor:
        """(V, d) embedding rows of the original vocabulary, raw as stored, detached."""
        ...

    def words(self) -> list[str]:
        """The V words or word pieces, readable, for nearest-word reports."""
        ...

    def segment_ids(self, text: str) -> list[int]:
        """Ids of a stretch of a prompt: no begin, end or padding.

        A blank before its first word counts where the vocabulary tells " dog" from "dog".

        Raises: TokenError if the vocabulary cannot spell it.
        """
        ...

    def states(self, ids: list[int]) -> Tensor:
        """(n, d) last hidden states, after the final norm, of n ids between begin and end.

        They have the dimension of rows, and so may stand in their place.
        """
        ...

    def wrap_ids(self, ids: list[int]) -> list[int]:
        """Begin, ids and end, `max_length` at most; what has no room is cut off.

        No id is looked at, so that negative numbers may stand among them.
        """
        ...

    def padded_length(self, longest: int) -> int:
        """Positions of a batch whose longest prompt, wrapped, takes so many."""
        ...


def initializer_ids(encoder: TextEncoder, initializer: str) -> list[int]:
    """Pieces of a word or phrase as it stands inside a sentence: some vocabularies tell " dog" from
    "dog". Empty if it is. Raises: TokenError if it cannot be spelled.
    """
    return encoder.segment_ids(f" {initializer.strip()}") if initializer.strip() else []


def initializer_rows(encoder: TextEncoder, initializer: str) -> Tensor:
    """Vocabulary rows of `initializer_ids`: (n, d) fp32, where learning starts.

    Raises: TokenError if the initializer is empty, cannot be spelled, or has a piece whose row is
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
    """Lengths between which 99 % of the non-zero vocabulary rows lie."""
    norms = torch.linalg.vector_norm(encoder.vocabulary().float(), dim=-1)
    norms = norms[norms > 0].sort().values
    cut = round(0.005 * (len(norms) - 1))
    return float(norms[cut]), float(norms[-1 - cut])


def vocabulary_magnitude(encoder: TextEncoder) -> float:
    """Mean length of the non-zero vocabulary rows: the m* that keeps a learned token in-vocabulary.

    Source: paper, section 3.1; zero rows are words that were never trained.
    """
    norms = torch.linalg.vector_norm(encoder.vocabulary().float(), dim=-1)
    return float(norms[norms > 0].double().mean())
