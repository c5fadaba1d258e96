"""Whether a token is as good as one that was learned undisturbed: by the angle between the two."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import degrees

import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.optim.sphere import geodesic_distance
from dti_engine.text.tokens import LearnedToken

TOLERANCE = 0.1
"""The share of the angle between two seeds that docs/explanation/method.md allows between two
packings: who
sits beside whom in which slot is another thing after a kill.
"""


@dataclass(frozen=True)
class Undisturbed:
    """What subjects learn if nothing is killed, with the seed of all rounds and with another."""

    same: Mapping[str, Artifact]
    other: Mapping[str, Artifact]

    def compare(self, name: str, learned: LearnedToken) -> dict[str, float]:
        """Whether it is the undisturbed one bit for bit; degrees to that, and between seeds."""
        same, other = self.same[name].token, self.other[name].token
        return {
            "exact": all(
                torch.equal(rows, same.embeddings[encoder])
                for encoder, rows in learned.embeddings.items()
            ),
            "angle": angle(learned, same),
            "seeds": angle(same, other),
        }


def angle(one: LearnedToken, other: LearnedToken) -> float:
    """The largest between their vectors, in degrees."""
    theirs = other.directions()
    return degrees(
        max(
            float(geodesic_distance(rows, theirs[name]).max())
            for name, rows in one.directions().items()
        )
    )
