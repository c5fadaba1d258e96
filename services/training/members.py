"""The workers of a pool, as those see them who size it."""

from dataclasses import dataclass
from typing import Literal

MemberState = Literal["pending", "running", "draining"]
"""Pending: it waits for resources, or loads its model."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker."""

    name: str
    state: MemberState
    in_hand: int = 0
    """Attempts that are not over."""
    idle: float = 0.0
    """Seconds without any."""
