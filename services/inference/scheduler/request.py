"""A picture that somebody waits for.

What happens in a batcher, for those who count and log it.
"""

import itertools
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest

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


class Events:
    """Does nothing by itself. Called from the device's thread; must not raise."""

    def joined(self, tickets: int, beside: int, seconds: float) -> None:
        """So many pictures join so many others; the first had waited so long."""

    def stepped(self, seconds: float, pictures: int, cap: int) -> None:
        """One step of so many pictures, where there is room for `cap`."""

    def decoded(self, seconds: float, pictures: int) -> None:
        """Pictures were made of so many latents."""

    def ended(self, ticket: Ticket, error: DTIError | None) -> None:
        """A picture is done, or is not to be had."""

    def dropped(self, ticket: Ticket) -> None:
        """Nobody waits for a picture any more."""

    def waiting(self, pictures: int) -> None:
        """So many are in the queue."""

    def shrunk(self, cap: int) -> None:
        """Memory ran out."""

    def broke(self, error: Exception) -> None:
        """The device can be used no more."""
