"""A request for one image, as the scheduler keeps it."""

import itertools
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest

BatchKey = tuple[int, ...]
"""What images must have in common to share a batch: height and width in pixels. The key of an
isolated image has a number of its own as well.
"""

_numbers = itertools.count()


class RequestCallbacks(Protocol):
    """Receives the progress and the result of one image.

    The methods are called from the device thread: they must return quickly and must not raise.
    """

    def on_step(self, step: int, preview: Image.Image | None) -> None:
        """Handle that `step` denoising steps are done."""
        ...

    def on_end(self, result: Image.Image | DTIError) -> None:
        """Handle the result. Called exactly once, or never if the request was cancelled."""
        ...


@dataclass(eq=False)
class ScheduledRequest:
    """A request for one image. Times are in seconds of `time.monotonic`."""

    tenant: str
    image: ImageRequest
    steps: int
    size: tuple[int, int]
    """Height and width in pixels."""
    callbacks: RequestCallbacks
    deadline: float = float("inf")
    """When the caller stops waiting."""
    isolated: bool = False
    """Whether it gets a batch of its own, so that its rounding does not depend on other images."""
    background: bool = False
    """Whether it has low priority: interactive requests go first."""
    preview_interval: int = 0
    """Steps between two previews; 0: none."""
    queued_at: float = 0.0
    cancelled: bool = False
    """Whether the caller has left. May be set from any thread."""
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def batch_key(self) -> BatchKey:
        """Return the key of the batches that this image may be in."""
        return (*self.size, self.number) if self.isolated else self.size

    def is_expired(self, now: float) -> bool:
        """Return whether the image is cancelled or past its deadline."""
        return self.cancelled or now >= self.deadline


def is_isolated(key: BatchKey) -> bool:
    """Return whether a batch holds a single isolated image."""
    return len(key) > 2
