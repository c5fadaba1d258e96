"""Tokens as they are known to an engine."""

from dataclasses import dataclass

from dti_engine.text.tokens import LearnedToken

Key = tuple[str, str]
"""A tenant and the id of a token."""

OVERHEAD = 4096
"""Bytes that a token takes beside its rows, as `benchmarks.generation.token_cache` finds them."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedToken:
    """A token that is there and fits. `learned` is the same object for as long as it is kept."""

    token: str
    sha256: str
    learned: LearnedToken

    @property
    def origin(self) -> dict[str, str]:
        """Which token this is, as `Artifact.origin` has it."""
        return {"placeholder": self.learned.placeholder, "sha256": self.sha256}


def size_of(token: LearnedToken) -> int:
    """Bytes that a token takes in memory."""
    return OVERHEAD + sum(4 * rows.numel() for rows in token.embeddings.values())
