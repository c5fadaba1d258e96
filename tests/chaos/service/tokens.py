"""The quality of a token: its angle to the one that the same training gives without faults."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import degrees

import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.optim.sphere import geodesic_distance
from dti_engine.text.tokens import LearnedToken

TOLERANCE = 0.1
"""The share of the angle between two seeds that docs/explanation/method.md allows between batches:
after a fault, a subject trains beside others and in another slot.
"""


@dataclass(frozen=True)
class ReferenceTokens:
    """Artifacts of all subjects trained without faults, with the rounds' seed and with another."""

    same_seed: Mapping[str, Artifact]
    other_seed: Mapping[str, Artifact]

    def compare(self, subject: str, token: LearnedToken) -> dict[str, float]:
        """Return whether a token is bit for bit the reference, and the angles in degrees."""
        same, other = self.same_seed[subject].token, self.other_seed[subject].token
        return {
            "exact": all(
                torch.equal(rows, same.embeddings[encoder])
                for encoder, rows in token.embeddings.items()
            ),
            "angle": angle_degrees(token, same),
            "seed_angle": angle_degrees(same, other),
        }


def angle_degrees(token: LearnedToken, other: LearnedToken) -> float:
    """Return the largest angle between the vectors of two tokens."""
    directions = other.directions()
    return degrees(
        max(
            float(geodesic_distance(rows, directions[encoder]).max())
            for encoder, rows in token.directions().items()
        )
    )
