"""LearnedToken: one subject as rows of text embeddings; and blends of tokens: slerp and mean.

Shapes: d coordinates of an embedding, n vectors of one token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dti_engine.config import PLACEHOLDER, Pooling
from dti_engine.errors import ArtifactMismatchError, ConfigurationError, TokenError
from dti_engine.optim import sphere


def require_placeholder(name: str) -> None:
    """Reject a name that no prompt could mention. Raises: TokenError."""
    if not PLACEHOLDER.fullmatch(name):
        raise TokenError(
            f"placeholder {name!r} is malformed: write <name>, where name is "
            "1 to 63 characters of a-z, 0-9, '-' and '_', the first a letter or digit"
        )


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A subject as embedding rows: for each text encoder (n, d) fp32 rows e = m* v.

    The rows are on the CPU; n may differ between encoders. A token equals only itself. `pooling` is
    how prompts with it were pooled in training, for models with a pooled embedding.

    Raises: TokenError if the placeholder is malformed; ConfigurationError if the rows are not
        finite (n, d) fp32.
    """

    placeholder: str
    embeddings: Mapping[str, Tensor]
    pooling: Pooling = "eos"

    def __post_init__(self) -> None:
        require_placeholder(self.placeholder)
        for encoder, rows in self.embeddings.items():
            if (
                rows.dtype != torch.float32
                or rows.ndim != 2
                or not rows.numel()
                or not rows.isfinite().all()
            ):
                raise ConfigurationError(
                    f"embeddings of {self.placeholder} for {encoder!r} must be finite float32 "
                    f"of shape (n, d) with n, d >= 1, got {rows.dtype} {tuple(rows.shape)}"
                )

    def num_vectors(self, encoder: str) -> int:
        """Return how many positions the token takes in a prompt of this encoder."""
        return len(self.embeddings[encoder])

    def vector_counts(self) -> dict[str, int]:
        """Return encoder name -> number of positions that the token takes in a prompt."""
        return {name: len(rows) for name, rows in self.embeddings.items()}

    def directions(self) -> dict[str, Tensor]:
        """Return encoder name -> (n, d) unit rows v. Raises: ZeroVectorError if a row is zero."""
        return {name: sphere.normalize(rows) for name, rows in self.embeddings.items()}

    def magnitudes(self) -> dict[str, Tensor]:
        """Return encoder name -> (n,) lengths m* of the rows."""
        return {
            name: torch.linalg.vector_norm(rows, dim=-1) for name, rows in self.embeddings.items()
        }


def common_pooling(tokens: Iterable[LearnedToken]) -> Pooling:
    """Return the pooling of prompts with these tokens or their blend: theirs if equal, else "eos".

    The end of a prompt attends to every token; legacy pooling stops at one of them.
    """
    return "legacy" if {token.pooling for token in tokens} == {"legacy"} else "eos"


def slerp_tokens(a: LearnedToken, b: LearnedToken, t: float, *, placeholder: str) -> LearnedToken:
    """Interpolate two tokens at the fraction t; at the ends, exactly the rows of a or b.

    Per encoder and per vector: the direction by `sphere.slerp`, the magnitude linearly.

    Raises: ConfigurationError if t is outside [0, 1]; ArtifactMismatchError if the tokens differ in
        encoders or shapes; AntipodalError if two directions are opposite.
    Source: paper, section 4.5.
    """
    if not 0 <= t <= 1:
        raise ConfigurationError(f"the blend fraction t must lie in [0, 1], got {t}")
    _require_same_shapes([a, b])
    if t in (0, 1):  # m (e / m) would equal e only to rounding
        return replace(b if t else a, placeholder=placeholder)
    directions_a, directions_b = a.directions(), b.directions()
    magnitudes_a, magnitudes_b = a.magnitudes(), b.magnitudes()
    # Directions live on the sphere, magnitudes on a line: each is interpolated in its own space.
    blended: dict[str, Tensor] = {}
    for name in a.embeddings:
        magnitude = torch.lerp(magnitudes_a[name], magnitudes_b[name], t)
        # Vector by vector: the i-th vectors of two tokens stand at the same position of a prompt.
        blended[name] = magnitude.unsqueeze(-1) * sphere.slerp(
            directions_a[name], directions_b[name], t
        )
    return LearnedToken(placeholder, blended, common_pooling([a, b]))


def slerp_strip(
    a: LearnedToken, b: LearnedToken, count: int, *, placeholder: str
) -> list[LearnedToken]:
    """Return `count` >= 2 tokens in equal steps from a to b, ends included.

    Raises: as `slerp_tokens`; ConfigurationError if count is below 2.
    """
    if count < 2:
        raise ConfigurationError(f"a strip has two ends, so count must be >= 2, got {count}")
    return [slerp_tokens(a, b, i / (count - 1), placeholder=placeholder) for i in range(count)]


def mean_tokens(
    weighted: Sequence[tuple[LearnedToken, float]], *, placeholder: str
) -> LearnedToken:
    """Return the weighted mean of tokens; weights are > 0 and need not sum to 1.

    Per encoder and per vector: the direction is the Frechet mean, the magnitude the weighted mean.
    The mean of two tokens with weights 1 - t and t is `slerp_tokens` at t, to rounding.

    Raises: ConfigurationError if there is no token or a weight is not positive;
        ArtifactMismatchError if the tokens differ in encoders or shapes; AntipodalError if
        directions fit in no open hemisphere.
    Source: paper, section 4.5, generalized from two tokens to several.
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
        points = torch.stack(
            [by_encoder[name] for by_encoder in directions], dim=-2
        )  # (n, tokens, d)
        magnitude = (
            torch.stack([by_encoder[name] for by_encoder in magnitudes], dim=-1) @ shares
        )  # (n,)
        blended[name] = magnitude.unsqueeze(-1) * sphere.mean_direction(points, shares)
    return LearnedToken(placeholder, blended, common_pooling(tokens))


def _require_same_shapes(tokens: Sequence[LearnedToken]) -> None:
    shapes = [
        {name: tuple(rows.shape) for name, rows in token.embeddings.items()} for token in tokens
    ]
    for token, shape in zip(tokens, shapes, strict=True):
        if shape != shapes[0]:
            raise ArtifactMismatchError(
                f"only tokens of the same encoders, vector counts and dimensions can be blended: "
                f"{tokens[0].placeholder} has {shapes[0]}, {token.placeholder} has {shape}"
            )
