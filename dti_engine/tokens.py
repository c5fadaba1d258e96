"""A learned token: one subject, as rows of text embeddings under a placeholder's name.

Shapes: d coordinates of an embedding, n vectors of one token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dti_engine import sphere
from dti_engine.config import PLACEHOLDER, Pooling
from dti_engine.errors import ConfigurationError, TokenError


def require_placeholder(name: str) -> None:
    """Raises: TokenError if the name is none that a prompt can mention."""
    if not PLACEHOLDER.fullmatch(name):
        raise TokenError(
            f"placeholder {name!r} is malformed: write <name>, where name is "
            "1 to 63 characters of a-z, 0-9, '-' and '_', the first a letter or digit"
        )


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """One subject as embedding rows: for each text encoder (n, d) fp32 rows e = m* v.

    The rows lie on the CPU; n may differ between encoders. A token equals only itself. `pooling` is
    how prompts with it were read when it was learned, for models that take a summary of a prompt.

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
        """Positions that the token takes in a prompt of this encoder."""
        return len(self.embeddings[encoder])

    def directions(self) -> dict[str, Tensor]:
        """Encoder name -> (n, d) unit rows v. Raises: ZeroVectorError if a row is zero."""
        return {name: sphere.normalize(rows) for name, rows in self.embeddings.items()}

    def magnitudes(self) -> dict[str, Tensor]:
        """Encoder name -> (n,) lengths m* of the rows."""
        return {
            name: torch.linalg.vector_norm(rows, dim=-1) for name, rows in self.embeddings.items()
        }


def joint_pooling(tokens: Iterable[LearnedToken]) -> Pooling:
    """How a prompt with all of these is read, or one with their blend: as they agree, else "eos".

    The end of a prompt has seen every token; a legacy summary stops at one of them.
    """
    return "legacy" if {each.pooling for each in tokens} == {"legacy"} else "eos"
