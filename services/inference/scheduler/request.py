"""An image that somebody waits for.

What happens in a batcher, for those who count and log it.
"""

import itertools
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest

_numbers = itertools.count()


class RequestCallbacks(Protocol):
    """Who waits. Called from the device's thread, so it must be quick, and must not raise."""

    def stepped(self, step: int, preview: Image.Image | None) -> None:
        """So many steps are done."""
        ...

    def ended(self, outcome: Image.Image | DTIError) -> None:
        """Called exactly once, but for an image that nobody waits for any more."""
        ...


@dataclass(eq=False)
class ScheduledRequest:
    """One image. Times are of `time.monotonic`, in seconds."""

    tenant: str
    request: ImageRequest
    steps: int
    size: tuple[int, int]
    """Height and width in pixels."""
    listener: RequestCallbacks
    deadline: float = float("inf")
    """After which nobody waits for it any more."""
    alone: bool = False
    """To be generated in calls of its own, so that not even rounding depends on others."""
    background: bool = False
    """Those that somebody looks at go first."""
    previews: int = 0
    """One every so many steps; 0: none."""
    entered: float = 0.0
    gone: bool = False
    """Whoever waited has left. Set from any thread."""
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def group(self) -> tuple[int, ...]:
        """What must be the same of images that share a call."""
        return (*self.size, self.number) if self.alone else self.size

    def stale(self, now: float) -> bool:
        """Whether there is nobody to generate it for."""
        return self.gone or now >= self.deadline


def is_alone(group: tuple[int, ...]) -> bool:
    """Whether it is of one image that wants to be generated alone."""
    return len(group) > 2


class SchedulerMetrics:
    """Does nothing by itself. Called from the device's thread; must not raise."""

    def joined(self, tickets: int, beside: int, seconds: float) -> None:
        """So many images join so many others; the first had waited so long."""

    def stepped(self, seconds: float, images: int, cap: int) -> None:
        """One step of so many images, where there is room for `cap`."""

    def decoded(self, seconds: float, images: int) -> None:
        """Images were made of so many latents."""

    def ended(self, ticket: ScheduledRequest, error: DTIError | None) -> None:
        """An image is done, or is not to be had."""

    def dropped(self, ticket: ScheduledRequest) -> None:
        """Nobody waits for an image any more."""

    def waiting(self, images: int) -> None:
        """So many are in the queue."""

    def shrunk(self, cap: int) -> None:
        """Memory ran out."""

    def broke(self, error: Exception) -> None:
        """The device can be used no more."""
