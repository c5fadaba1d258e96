"""Blends of token files: the shares that options ask for, the token, and its own file."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dti_engine.errors import ArtifactMismatchError, ConfigurationError

if TYPE_CHECKING:
    from dti_engine.artifact import Artifact
    from dti_engine.tokens import LearnedToken


def shares_of_each(
    count: int, *, t: float | None, weights: str | None, strip: int | None
) -> list[list[float]]:
    """Per blend to be made, the share of each of `count` tokens; shares sum to 1.

    Raises: ConfigurationError if the options contradict each other or the number of tokens.
    """
    if count < 2:
        raise ConfigurationError("a blend needs two tokens or more")
    if sum(option is not None for option in (t, weights, strip)) > 1:
        raise ConfigurationError("--t, --weights and --strip exclude each other; give one of them")
    if count > 2 and (t is not None or strip is not None):
        raise ConfigurationError(f"--t and --strip are for two tokens, not {count}; use --weights")
    if strip is not None:
        return [[1 - i / (strip - 1), i / (strip - 1)] for i in range(strip)]
    if t is not None:
        return [[1 - t, t]]
    numbers = _numbers(weights) if weights else [1.0] * count
    if len(numbers) != count or min(numbers) <= 0:
        raise ConfigurationError(
            f"--weights must be {count} numbers above 0, one per token, got {weights!r}"
        )
    return [[number / sum(numbers) for number in numbers]]


def _numbers(weights: str) -> list[float]:
    try:
        numbers = [float(each) for each in weights.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ConfigurationError(f"--weights must be finite numbers like 2,1,1, got {weights!r}")
    return numbers


def blended(
    parents: Sequence["Artifact"], shares: Sequence[float], placeholder: str
) -> "LearnedToken":
    """The blend with these shares. Raises: as `blends.slerp_tokens` and `blends.mean_tokens`."""
    from dti_engine.blends import mean_tokens, slerp_tokens

    tokens = [parent.token for parent in parents]
    if len(tokens) == 2:
        return slerp_tokens(tokens[0], tokens[1], shares[1], placeholder=placeholder)
    return mean_tokens(list(zip(tokens, shares, strict=True)), placeholder=placeholder)


def kept(
    parents: Sequence["Artifact"], shares: Sequence[float], token: "LearnedToken"
) -> "Artifact":
    """The blend as an artifact of its own.

    Raises: ArtifactMismatchError if the parents were made with different weights.
    """
    from dti_engine.artifact import Artifact
    from dti_engine.manifest import Blended, Parent

    made_with = {each.manifest.backbone_fingerprint: each.manifest.backbone for each in parents}
    if len(made_with) > 1:
        raise ArtifactMismatchError(
            f"the tokens were made with different weights, {', '.join(made_with.values())}, so "
            "their blend belongs to none; train them again with one backbone"
        )
    ((fingerprint, backbone),) = made_with.items()
    used = (
        Parent(placeholder=each.manifest.placeholder, sha256=each.sha256(), share=share)
        for share, each in zip(shares, parents, strict=True)
        if share
    )
    is_pooled = any(each.manifest.origin.pooling for each in parents)
    origin = Blended(parents=tuple(used), pooling=token.pooling if is_pooled else None)
    return Artifact.of(token, backbone=backbone, fingerprint=fingerprint, origin=origin)
