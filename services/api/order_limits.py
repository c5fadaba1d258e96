"""Refusal of orders that a model or a tenant does not take, before anything is stored or queued."""

from collections.abc import Sequence
from math import isqrt

from dti_engine.config import TrainConfig
from services.api.problems import invalid_request
from services.auth.tenants import Limits
from services.contracts.cost import Cost, cost_of
from services.contracts.jobs import JobRequest
from services.contracts.models import ServedModel

Place = Sequence[str | int]
"""The place of a field in a request."""


def image_cost(
    name: str,
    model: ServedModel,
    size: tuple[int, int] | None,
    steps: int,
    count: int,
) -> Cost:
    """Return the cost of images of one model.

    Args:
        name: The model's name, for errors.
        model: The model.
        size: Width and height in pixels; None for the model's own size.
        steps: Denoising steps of an image.
        count: The number of images.

    Raises:
        RequestValidationError: The model makes no such images.
    """
    limits = model.order_limits()
    if steps > limits.max_image_steps:
        raise invalid_request(
            ("body", "steps"),
            f"is {steps}, and {name} takes at most {limits.max_image_steps}: give fewer",
        )
    pixels = model.image_pixels if size is None else size[0] * size[1]
    if size and pixels > limits.max_image_pixels:
        side = isqrt(limits.max_image_pixels) // 8 * 8
        raise invalid_request(
            ("body", "size"),
            f"the size is {size[0]}x{size[1]}, which is {pixels} pixels, and {name} makes at most "
            f"{limits.max_image_pixels}, such as {side}x{side}: give a smaller size, or auto for "
            "the model's own",
        )
    return cost_of(steps, pixels, count=count)


def training_reason(name: str, model: ServedModel, config: TrainConfig) -> str | None:
    """Return why a model does not train by a config; None if it does."""
    limits = model.order_limits()
    if config.steps > limits.max_training_steps:
        return (
            f"steps is {config.steps}, and {name} takes at most {limits.max_training_steps}: give "
            "fewer"
        )
    pixels = training_cost(config).pixels_at_once
    if pixels > limits.max_training_pixels:
        return (
            f"resolution {config.resolution} and batch_size {config.batch_size} are {pixels} "
            f"pixels in each step, and {name} takes at most {limits.max_training_pixels}: make one "
            "of them smaller"
        )
    return None


def training_cost(config: TrainConfig, count: int = 1) -> Cost:
    """Return the cost of training `count` subjects."""
    return cost_of(config.steps, config.resolution**2, batch=config.batch_size, count=count)


def check_tenant_limits(limits: Limits, cost: Cost, place: Place) -> None:
    """Check that an order does not cost more than one order of the tenant may.

    Raises:
        RequestValidationError: The order costs too much.
    """
    if cost.pixel_steps > limits.order_pixel_steps:
        raise invalid_request(
            place,
            f"the order costs {cost.pixel_steps} pixel steps (steps x pixels x batch size, over "
            f"all items), and the tenant's limit is {limits.order_pixel_steps}: ask for fewer or "
            "smaller items, or submit several orders",
        )


def check_stored_bytes(limits: Limits, job: JobRequest, place: Place) -> None:
    """Check that a job is not larger than the tenant may store.

    Raises:
        RequestValidationError: The job is too large.
    """
    size_bytes = len(job.model_dump_json(include={"items", "shared"}).encode())
    if size_bytes > limits.order_bytes:
        raise invalid_request(
            place,
            f"the job has {size_bytes} bytes as it is stored, and the tenant's limit is "
            f"{limits.order_bytes}: submit several jobs",
        )


def model_limits_of(model: ServedModel, limits: Limits) -> dict[str, int]:
    """Return all limits of a tenant's orders for a model, by name."""
    own = model.order_limits()
    return {
        "max_image_pixels": own.max_image_pixels,
        "max_image_steps": own.max_image_steps,
        "max_training_steps": own.max_training_steps,
        "max_training_pixels": own.max_training_pixels,
        "max_order_pixel_steps": limits.order_pixel_steps,
        "max_order_bytes": limits.order_bytes,
    }
