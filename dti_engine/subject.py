"""A subject: what one token is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dti_engine.config import TrainConfig
from dti_engine.images.decode import SubjectImage


@dataclass(frozen=True, slots=True)
class Subject:
    """A few images of one thing, and the word or phrase that describes it best."""

    id: str
    images: Sequence[SubjectImage]
    placeholder: str  # "<rex>", the token's name in prompts
    initializer: str  # word or phrase; the token gets one vector per vocabulary piece of it
    seed: int
    num_vectors: int | None = None  # None: one per piece; more repeat the initializer's pieces
    config: TrainConfig | None = None  # None: the config of the run
    forced: tuple[str, ...] = ()  # objections that the user has overridden, in words

    def without_images(self) -> "Subject":
        """Return a copy without images, to keep: decoded images are by far the largest part."""
        return replace(self, images=())
