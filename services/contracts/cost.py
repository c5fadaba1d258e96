"""The cost of an order, and the largest orders that a model takes. This module loads no torch.

An order is one request: images, a training job or a generation job. Its cost is computed and
compared with the limits of the model and of the tenant before anything of it is stored or queued.
"""

from dataclasses import dataclass

from pydantic import Field

from dti_engine.config import MAX_RESOLUTION, MAX_TRAINING_STEPS, TrainConfig
from services.contracts.generation import MAX_STEPS
from services.contracts.jobs import WireModel

_IMAGE_FACTOR = 2
"""Side of the largest image, in sides of the recipe's crops."""

_STEPS_FACTOR = 25
"""Steps of the longest training, in steps of the recipe."""

_BATCH_FACTOR = 8
"""Samples of the largest training batch, in samples of the recipe's."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of an order."""

    pixel_steps: int
    """Steps x pixels x batch, summed over all items: the measure of the device's time."""
    pixels_at_once: int
    """Pixels x batch of the largest item: the measure of the device's memory."""

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of two orders that are carried out one after the other."""
        return Cost(
            self.pixel_steps + other.pixel_steps, max(self.pixels_at_once, other.pixels_at_once)
        )


def cost_of(steps: int, pixels: int, *, batch: int = 1, count: int = 1) -> Cost:
    """Return the cost of `count` equal items.

    Args:
        steps: Denoising or training steps of an item.
        pixels: Pixels of an image or of a crop: height x width.
        batch: Images or crops of an item in one step.
        count: The number of items.
    """
    return Cost(pixel_steps=steps * pixels * batch * count, pixels_at_once=pixels * batch)


class OrderLimits(WireModel):
    """The largest orders that a model takes. What is left out follows from the model's recipe."""

    max_image_pixels: int | None = Field(
        default=None,
        ge=64,
        le=MAX_RESOLUTION**2,
        description="pixels of an image, height x width; none: a square of twice the recipe's "
        "resolution",
    )
    max_image_steps: int = Field(
        default=MAX_STEPS, ge=1, le=MAX_STEPS, description="denoising steps of an image"
    )
    max_training_steps: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TRAINING_STEPS,
        description="training steps of a subject; none: 25 times the recipe's",
    )
    max_training_pixels: int | None = Field(
        default=None,
        ge=64,
        le=MAX_RESOLUTION**2 * 1024,
        description="pixels of a subject in one training step, resolution squared x batch size; "
        "none: 8 times the recipe's",
    )


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The limits of a model in numbers."""

    max_image_pixels: int
    max_image_steps: int
    max_training_steps: int
    max_training_pixels: int


def model_limits(limits: OrderLimits, recipe: TrainConfig) -> ModelLimits:
    """Return the limits of a model, of which the recipe gives those that are left out.

    The recipe's resolution stands for the size that the model was trained at, since the API never
    opens weights.
    """
    side = min(_IMAGE_FACTOR * recipe.resolution, MAX_RESOLUTION)
    steps = min(_STEPS_FACTOR * recipe.steps, MAX_TRAINING_STEPS)
    step_pixels = cost_of(1, recipe.resolution**2, batch=recipe.batch_size).pixels_at_once
    return ModelLimits(
        max_image_pixels=limits.max_image_pixels or side**2,
        max_image_steps=limits.max_image_steps,
        max_training_steps=limits.max_training_steps or steps,
        max_training_pixels=limits.max_training_pixels or _BATCH_FACTOR * step_pixels,
    )
