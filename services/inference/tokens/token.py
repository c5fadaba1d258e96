"""A token in memory, and its size."""

from dataclasses import dataclass

from dti_engine.text.tokens import LearnedToken

Key = tuple[str, str]
"""A tenant and a token id."""

OVERHEAD_BYTES = 4096
"""Memory of a token besides its rows, as the benchmark of the token cache measures it."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedToken:
    """A token that was found and fits the model.

    `learned` stays the same object while the token is cached or in use, so that prompt caches can
    compare tokens by identity.
    """

    token: str
    sha256: str
    learned: LearnedToken

    @property
    def origin(self) -> dict[str, str]:
        """Return which token this is, in the form of `Artifact.origin`."""
        return {"placeholder": self.learned.placeholder, "sha256": self.sha256}


def num_bytes_of(token: LearnedToken) -> int:
    """Return the memory use of a token."""
    return OVERHEAD_BYTES + sum(4 * rows.numel() for rows in token.embeddings.values())
