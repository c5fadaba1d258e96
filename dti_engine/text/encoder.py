"""The TextEncoder interface, and its vocabulary: initial rows, norms, and nearest words of a token.

Neighbours by cosine share a word's meaning; neighbours by Euclidean distance mostly share its
length. The two lists side by side show why DTI learns directions.

Shapes: V words or word pieces, d coordinates of an embedding, n vectors of one token.

Source of the comparison: paper, section 2.1 and Table 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import torch
from torch import Tensor

from dti_engine.errors import ArtifactMismatchError, ConfigurationError, TokenError
from dti_engine.optim import sphere
from dti_engine.text.tokens import LearnedToken


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
        near = _near_trained_words(encoder, initializer)
        hint = f"; near words that it has are {', '.join(near)}" if near else ""
        raise TokenError(
            f"initializer {initializer!r} has no usable rows in the vocabulary of {encoder.name}"
            f"{hint}; give a common word for the subject, such as 'dog', that the model was "
            "trained with"
        )
    return rows


def _near_trained_words(encoder: TextEncoder, word: str) -> list[str]:
    """Return the words with a row that are spelled most like a word, the nearest first."""
    trained = encoder.vocabulary().any(dim=-1).tolist()
    known = [each for each, row in zip(encoder.words(), trained, strict=True) if row]
    return get_close_matches(word.strip().lower(), filter(str.isalpha, known))


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
    # In float64, since a mean over a whole vocabulary in float32 depends on the order of the sum,
    # and so on the device; m* becomes part of every token.
    return float(norms[norms > 0].double().mean())


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word of the vocabulary, relative to a vector."""

    word: str
    cosine: float
    distance: float  # Euclidean, between the vectors at their full lengths


@dataclass(frozen=True, slots=True)
class VectorReport:
    """A vector of a token, in the vocabulary of one encoder."""

    encoder: str
    index: int  # of the vector within the token
    norm: float
    initializer_angle_deg: float | None  # from the initializer's piece that it started from
    by_cosine: tuple[Neighbour, ...]  # nearest first
    by_distance: tuple[Neighbour, ...]


def nearest_words(
    encoder: TextEncoder, vector: Tensor, *, count: int
) -> tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]:
    """Return the `count` nearest words to a vector (d,), by cosine and by Euclidean distance.

    Words whose row is zero were never trained and are skipped.

    Raises: ConfigurationError if count is below 1; ArtifactMismatchError if d is not the encoder's;
        ZeroVectorError if the vector is zero.
    """
    if count < 1:
        raise ConfigurationError(f"the number of nearest words must be >= 1, got {count}")
    if vector.shape != (encoder.dim,):
        raise ArtifactMismatchError(
            f"{encoder.name} has vectors of shape {(encoder.dim,)}, got {tuple(vector.shape)}"
        )
    # On the CPU, where the token's rows are; a single pass over the table needs no GPU.
    table = encoder.vocabulary().detach().to("cpu", torch.float32)  # (V, d)
    trained = table.any(dim=-1).nonzero().flatten()  # (W,)
    rows, words = table[trained], encoder.words()
    vector = vector.detach().to("cpu", torch.float32)
    cosines = sphere.normalize(rows) @ sphere.normalize(vector)
    distances = torch.linalg.vector_norm(rows - vector, dim=-1)

    def neighbours(order: Tensor) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(words[int(trained[i])], float(cosines[i]), float(distances[i])) for i in order
        )

    count = min(count, len(rows))
    return (
        neighbours(cosines.topk(count).indices),
        neighbours(distances.topk(count, largest=False).indices),
    )


def inspect_token(
    token: LearnedToken,
    initializer: str | None,
    encoders: Mapping[str, TextEncoder],
    *,
    count: int,
) -> list[VectorReport]:
    """Report every vector of a token, with `count` nearest words of each kind.

    initializer: the word or phrase that it started from; None for a token of another program.

    Raises: TokenError if the initializer is not in the vocabulary; otherwise as `nearest_words`.
    """
    reports: list[VectorReport] = []
    for name, rows in token.embeddings.items():
        encoder = encoders[name]
        for index, row in enumerate(rows):
            by_cosine, by_distance = nearest_words(encoder, row, count=count)
            reports.append(
                VectorReport(
                    encoder=name,
                    index=index,
                    norm=float(torch.linalg.vector_norm(row)),
                    initializer_angle_deg=_initializer_angle(encoder, initializer, row, index),
                    by_cosine=by_cosine,
                    by_distance=by_distance,
                )
            )
    return reports


def _initializer_angle(
    encoder: TextEncoder, initializer: str | None, row: Tensor, index: int
) -> float | None:
    """Return the angle in degrees between a vector and its initial value."""
    if initializer is None:
        return None
    pieces = initializer_rows(encoder, initializer).cpu()
    # A token longer than its initializer started from the initializer's pieces, repeated.
    start = sphere.normalize(pieces[index % len(pieces)])
    return math.degrees(float(sphere.geodesic_distance(sphere.normalize(row), start)))
