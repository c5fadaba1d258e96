"""Pictures to be painted and the files that they become, each with its settings inside."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.commands.progress import painting_progress
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

    from dti_engine.backbones.interface import Backbone
    from dti_engine.generation import ImageRequest

_MAX_NAME = 60  # characters of a prompt in a file's name


@dataclass(frozen=True, eq=False)
class Order:
    """One picture: where it goes, what is asked for, and which tokens are in it, by placeholder."""

    path: Path
    request: "ImageRequest"
    origins: Mapping[str, Any]


def paint(
    backbone: "Backbone", orders: Sequence[Order], *, steps: int, batch_size: int
) -> tuple[list["Image.Image"], list[dict[str, Any]]]:
    """Paint and save all, each as soon as its batch is done; returns pictures and settings.

    Raises: what `generation.generate` does.
    """
    from dti_engine.generation import generate, picture_settings, save_picture

    settings = [
        picture_settings(order.request, backbone, steps=steps, tokens=order.origins)
        for order in orders
    ]

    def save(index: int, image: "Image.Image") -> None:
        save_picture(image, orders[index].path, settings[index])

    with painting_progress() as on_step:
        images = generate(
            backbone,
            [order.request for order in orders],
            steps=steps,
            batch_size=batch_size,
            on_image=save,
            on_step=on_step,
        )
    return images, settings


def filled(prompt: str, placeholders: Sequence[str]) -> str:
    """The prompt with the one token's placeholder for `{}`.

    Raises: ConfigurationError if there is a `{}` but not exactly one token.
    """
    if "{}" in prompt and len(placeholders) != 1:
        raise ConfigurationError(
            f"prompt {prompt!r} says {{}}, which stands for the one token, and there are "
            f"{len(placeholders)}; write the placeholders: {', '.join(placeholders) or 'none'}"
        )
    return prompt.replace("{}", placeholders[0]) if placeholders else prompt


def file_name(prompt: str) -> str:
    """A prompt as the beginning of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_MAX_NAME] or "picture"


def side_by_side(images: Sequence["Image.Image"]) -> "Image.Image":
    """Pictures of one size in one row."""
    from PIL import Image

    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        row.paste(image, (i * width, 0))
    return row
