"""Nearest vocabulary words of a learned token, by cosine and by Euclidean distance.

Neighbours by cosine share a word's meaning; neighbours by Euclidean distance mostly share its
length. The two lists side by side show why DTI learns directions.

Source: paper, section 2.1 and Table 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dti_engine.errors import ArtifactMismatchError, ConfigurationError
from dti_engine.optim import sphere
from dti_engine.text.encoder import TextEncoder, initializer_rows
from dti_engine.text.tokens import LearnedToken


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
