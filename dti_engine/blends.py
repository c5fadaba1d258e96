"""Blends of learned tokens: themselves tokens, as long as words are, on the way between them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dti_engine import sphere
from dti_engine.errors import ArtifactMismatchError, ConfigurationError
from dti_engine.tokens import LearnedToken, joint_pooling


def slerp_tokens(a: LearnedToken, b: LearnedToken, t: float, *, placeholder: str) -> LearnedToken:
    """The token a fraction t of the way from a to b; at the ends, exactly the rows of a or b.

    Per encoder and per vector: the direction by `sphere.slerp`, the magnitude linearly.

    Raises: ConfigurationError if t is outside [0, 1]; ArtifactMismatchError if the tokens differ in
        encoders or shapes; AntipodalError if two directions are opposite.
    Source: paper, section 4.5.
    """
    if not 0 <= t <= 1:
        raise ConfigurationError(f"the blend fraction t must lie in [0, 1], got {t}")
    _require_same_shapes([a, b])
    if t in (0, 1):  # m (e / m) would give e to rounding only
        return replace(b if t else a, placeholder=placeholder)
    directions_a, directions_b = a.directions(), b.directions()
    magnitudes_a, magnitudes_b = a.magnitudes(), b.magnitudes()
    blended: dict[str, Tensor] = {}
    for name in a.embeddings:
        magnitude = torch.lerp(magnitudes_a[name], magnitudes_b[name], t)
        blended[name] = magnitude.unsqueeze(-1) * sphere.slerp(
            directions_a[name], directions_b[name], t
        )
    return LearnedToken(placeholder, blended, joint_pooling([a, b]))


def slerp_strip(
    a: LearnedToken, b: LearnedToken, count: int, *, placeholder: str
) -> list[LearnedToken]:
    """`count` >= 2 tokens in equal steps from a to b, ends included. Raises as `slerp_tokens`."""
    if count < 2:
        raise ConfigurationError(f"a strip has two ends, so count must be >= 2, got {count}")
    return [slerp_tokens(a, b, i / (count - 1), placeholder=placeholder) for i in range(count)]


def mean_tokens(
    weighted: Sequence[tuple[LearnedToken, float]], *, placeholder: str
) -> LearnedToken:
    """Weighted mean of tokens; weights are > 0 and need not sum to 1.

    Per encoder and per vector: the direction is the Frechet mean, the magnitude the weighted mean.
    The mean of two tokens with weights 1 - t and t is `slerp_tokens` at t, to rounding.

    Raises: ConfigurationError if there is no token or a weight is not positive;
        ArtifactMismatchError if the tokens differ in encoders or shapes; AntipodalError if
        directions fit in no open hemisphere.
    Source: paper, section 4.5, from two tokens to several.
    """
    tokens = [token for token, _ in weighted]
    weights = torch.tensor([weight for _, weight in weighted])
    if not tokens or not bool(((weights > 0) & weights.isfinite()).all()):
        raise ConfigurationError(
            f"a mean needs tokens with finite weights > 0, got weights {weights.tolist()}"
        )
    _require_same_shapes(tokens)
    shares = weights / weights.sum()
    directions = [token.directions() for token in tokens]
    magnitudes = [token.magnitudes() for token in tokens]
    blended: dict[str, Tensor] = {}
    for name in tokens[0].embeddings:
        points = torch.stack([each[name] for each in directions], dim=-2)  # (n, tokens, d)
        magnitude = torch.stack([each[name] for each in magnitudes], dim=-1) @ shares  # (n,)
        blended[name] = magnitude.unsqueeze(-1) * sphere.mean_direction(points, shares)
    return LearnedToken(placeholder, blended, joint_pooling(tokens))


def _require_same_shapes(tokens: Sequence[LearnedToken]) -> None:
    shapes = [
        {name: tuple(rows.shape) for name, rows in token.embeddings.items()} for token in tokens
    ]
    for token, shape in zip(tokens, shapes, strict=True):
        if shape != shapes[0]:
            raise ArtifactMismatchError(
                f"only tokens of the same encoders, vector counts and dimensions blend: "
                f"{tokens[0].placeholder} has {shapes[0]}, {token.placeholder} has {shape}"
            )
