"""The workers of a pool, as those see them who size it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

MemberState = Literal["pending", "running", "draining"]
"""Pending: it waits for resources, or loads its model."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker."""

    name: str
    state: MemberState
    in_hand: int = 0
    """Attempts that are not over."""
    idle: float = 0.0
    """Seconds without any."""
    placed: bool = True
    """It has its resources, and a process."""


class UnresponsiveWorkers:
    """Which workers have given no answer for too long: killed, they are replaced. Their processes
    are stopped, or hang so that no thread of theirs runs, or are out of reach.
    """

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        """patience: seconds."""
        self._patience, self._clock = patience, clock
        self._since: dict[str, float] = {}

    def note(self, asked: Collection[str], answered: Collection[str]) -> list[str]:
        """Of those that there are, who was asked and who answered. Returns whom to give up."""
        now = self._clock()
        silent = [name for name in asked if name not in answered]
        self._since = {name: self._since.get(name, now) for name in silent}
        return [name for name in silent if now - self._since[name] >= self._patience]
