"""What is to be learned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dti_engine.config import TrainConfig
from dti_engine.images.decode import SubjectImage


@dataclass(frozen=True, slots=True)
class Subject:
    """What a caller wants learned: a few images of one thing, and the words nearest to it."""

    id: str
    images: Sequence[SubjectImage]
    placeholder: str  # "<rex>", the token's name in prompts
    initializer: str  # word or phrase; the token gets one vector per vocabulary piece of it
    seed: int
    num_vectors: int | None = None  # repeats the initializer's pieces to make so many
    config: TrainConfig | None = None  # how it is trained; None: as the run says

    def without_images(self) -> "Subject":
        """The same, to be remembered by: decoded images are by far the largest part."""
        return replace(self, images=())
