"""`dti generate`: prompts and tokens in, pictures out."""

from pathlib import Path
from typing import Annotated

import typer

from dti_engine.commands import options
from dti_engine.commands.inputs import open_backbone, open_tokens, warn_of_other_weights
from dti_engine.commands.orders import Order, file_name, filled, paint
from dti_engine.commands.terminal import output_folder, print_json, print_paths

EXAMPLES = (
    'dti generate "a photo of a <rex> on a beach" --token tokens/rex.safetensors',
    'dti generate "a {} in the snow" "a {} in a city" --token tokens/rex.safetensors -n 4',
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
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures per prompt.")] = 1,
    output: options.OutputFolderOption = Path("pictures"),
    seed: options.PaintingSeedOption = 0,
    steps: options.PaintingStepsOption = 25,
    guidance: options.GuidanceOption = 5.0,
    negative: options.NegativeOption = "",
    instruction: options.InstructionOption = True,
    batch_size: options.BatchSizeOption = 8,
    backbone: options.BackboneOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Paint prompts, with learned tokens in them.

    Writes PNG files that carry their settings, and prints their paths. Any number of prompts,
    tokens and seeds share one batch.
    """
    artifacts = open_tokens(tokens or [])
    prompts = [filled(prompt, list(artifacts)) for prompt in prompts]
    model = open_backbone(backbone, device=device, dtype=dtype, compiled=compiled)
    warn_of_other_weights(artifacts.values(), model)
    output = output_folder(output)

    from dti_engine.generation import ImageRequest

    bound = {placeholder: artifact.token for placeholder, artifact in artifacts.items()}
    origins = {placeholder: artifact.origin() for placeholder, artifact in artifacts.items()}
    orders: list[Order] = []
    for number, prompt in enumerate(prompts, start=1):
        name = file_name(prompt) if len(prompts) == 1 else f"{number:02d}-{file_name(prompt)}"
        for each_seed in range(seed, seed + count):
            request = ImageRequest(prompt, each_seed, bound, negative, guidance, instruction)
            orders.append(Order(output / f"{name}-seed{each_seed}.png", request, origins))
    _, settings = paint(model, orders, steps=steps, batch_size=batch_size)
    paths = [order.path for order in orders]
    if as_json:
        pairs = zip(paths, settings, strict=True)
        print_json({"pictures": [{"path": str(path)} | each for path, each in pairs]})
    else:
        print_paths(paths)
