"""Images to be generated and the files that they become, each with its settings inside.

`dti generate`: prompts and tokens in, images out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, print_json, print_paths
from dti_engine.cli.loading import open_backbone, open_tokens, warn_of_other_weights
from dti_engine.cli.progress import generation_progress
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

    from dti_engine.backbones.interface import Backbone
    from dti_engine.generation.pipeline import ImageRequest

_MAX_NAME = 60  # characters of a prompt in a file's name


@dataclass(frozen=True, eq=False)
class Order:
    """One image: where it goes, what is asked for, and which tokens are in it, by placeholder."""

    path: Path
    request: "ImageRequest"
    origins: Mapping[str, Any]


def generate_images(
    backbone: "Backbone", orders: Sequence[Order], *, steps: int, batch_size: int
) -> tuple[list["Image.Image"], list[dict[str, Any]]]:
    """Generate and save all, each as soon as its batch is done; returns images and settings.

    Raises: what `generation.generate` does.
    """
    from dti_engine.generation.pipeline import generate, image_settings, save_image

    settings = [
        image_settings(order.request, backbone, steps=steps, tokens=order.origins)
        for order in orders
    ]

    def save(index: int, image: "Image.Image") -> None:
        save_image(image, orders[index].path, settings[index])

    with generation_progress() as on_step:
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
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_MAX_NAME] or "image"


def side_by_side(images: Sequence["Image.Image"]) -> "Image.Image":
    """Images of one size in one row."""
    from PIL import Image

    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        row.paste(image, (i * width, 0))
    return row


EXAMPLES = (
    'dti generate "a photo of a <rex> on a beach" --token tokens/rex.safetensors',
    'dti generate "a {} in the snow" "a {} in a city" --token tokens/rex.safetensors --seeds 0-3',
    'dti generate "a <rex> and a <tom>" --token rex.safetensors --token tom.safetensors',
)


def generate(
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT...",
            help="Text with placeholders such as <rex>; {} stands for the token if there is one.",
            show_default=False,
        ),
    ],
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token",
            metavar="FILE",
            help="A token to use; as [cyan]'<name>=FILE'[/] it gets another placeholder.",
            show_default=False,
        ),
    ] = None,
    output: options.OutputFolderOption = Path("images"),
    seeds: options.SeedsOption = "0",
    steps: options.GenerationStepsOption = 25,
    guidance: options.GuidanceOption = 5.0,
    negative: options.NegativeOption = "",
    instruction: options.InstructionOption = True,
    batch_size: options.BatchSizeOption = 8,
    backbone: options.ModelOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Generate prompts, with learned tokens in them.

    Writes PNG files that carry their settings, and prints their paths. Any number of prompts,
    tokens and seeds share one batch.
    """
    artifacts = open_tokens(tokens or [])
    prompts = [filled(prompt, list(artifacts)) for prompt in prompts]
    model = open_backbone(backbone, device=device, dtype=dtype, compiled=compiled)
    warn_of_other_weights(artifacts.values(), model)
    output = output_folder(output)

    from dti_engine.generation.pipeline import ImageRequest

    bound = {placeholder: artifact.token for placeholder, artifact in artifacts.items()}
    origins = {placeholder: artifact.origin() for placeholder, artifact in artifacts.items()}
    orders: list[Order] = []
    for number, prompt in enumerate(prompts, start=1):
        name = file_name(prompt) if len(prompts) == 1 else f"{number:02d}-{file_name(prompt)}"
        for each_seed in options.parse_seeds(seeds):
            request = ImageRequest(prompt, each_seed, bound, negative, guidance, instruction)
            orders.append(Order(output / f"{name}-seed{each_seed}.png", request, origins))
    _, settings = generate_images(model, orders, steps=steps, batch_size=batch_size)
    paths = [order.path for order in orders]
    if as_json:
        pairs = zip(paths, settings, strict=True)
        print_json({"images": [{"path": str(path)} | each for path, each in pairs]})
    else:
        print_paths(paths)
