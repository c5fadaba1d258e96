"""A picture that somebody waits for."""

import itertools
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from dti_engine.denoising import ImageRequest
from dti_engine.errors import DTIError

_numbers = itertools.count()


class Listener(Protocol):
    """Who waits. Called from the device's thread, so it must be quick, and must not raise."""

    def stepped(self, step: int, preview: Image.Image | None) -> None:
        """So many steps are done."""
        ...

    def ended(self, outcome: Image.Image | DTIError) -> None:
        """Called exactly once, but for a picture that nobody waits for any more."""
        ...


@dataclass(eq=False)
class Ticket:
    """One picture. Times are of `time.monotonic`, in seconds."""

    tenant: str
    request: ImageRequest
    steps: int
    size: tuple[int, int]
    """Height and width in pixels."""
    listener: Listener
    deadline: float = float("inf")
    """After which nobody waits for it any more."""
    alone: bool = False
    """To be painted in calls of its own, so that not even rounding depends on others."""
    patient: bool = False
    """Those that somebody looks at go first."""
    previews: int = 0
    """One every so many steps; 0: none."""
    entered: float = 0.0
    gone: bool = False
    """Whoever waited has left. Set from any thread."""
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def group(self) -> tuple[int, ...]:
        """What must be the same of pictures that share a call."""
        return (*self.size, self.number) if self.alone else self.size

    def stale(self, now: float) -> bool:
        """Whether there is nobody to paint it for."""
        return self.gone or now >= self.deadline


def is_alone(group: tuple[int, ...]) -> bool:
    """Whether it is of one picture that wants to be painted alone."""
    return len(group) > 2
