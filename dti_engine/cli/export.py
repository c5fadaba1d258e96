"""`dti export` and `dti import`: tokens to and from the files of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from dti_engine.cli import options
from dti_engine.cli.console import print_json, print_paths, say
from dti_engine.cli.loading import open_backbone
from dti_engine.config import ExportFormat

EXPORT_EXAMPLES = (
    "dti export tokens/rex.safetensors --format diffusers --output learned_embeds.safetensors",
    "dti export tokens/rex.safetensors --format comfyui --output embeddings/rex.safetensors",
    "dti export tokens/rex.safetensors --format a1111 --output embeddings/rex.pt",
)
IMPORT_EXAMPLES = (
    "dti import learned_embeds.safetensors --model ./stable-diffusion-v1-5 -o rex.safetensors",
    "dti import rex.pt --placeholder '<rex>' --model ./stable-diffusion-v1-5 -o rex.safetensors",
)


def export(
    file: options.TokenArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="File to write.", show_default=False),
    ],
    file_format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="[cyan]diffusers[/]: for load_textual_inversion; [cyan]comfyui[/]: also kohya, "
            "OneTrainer, InvokeAI; [cyan]a1111[/]: its .pt file.",
        ),
    ] = "diffusers",
    as_json: options.JsonOption = False,
) -> None:
    """Write a token in the form of another program, and print the paths.

    Says how that program's prompts name the token. A token of SDXL becomes a pair of files for
    diffusers, FILE and FILE_2, and one file for the others.
    """
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.artifacts.exporters import export as write

    artifact = Artifact.load(file)
    written = write(artifact, output, file_format)
    if as_json:
        made = {"files": [str(each) for each in written.files], "format": file_format}
        said = {"prompt_name": written.prompt_name, "note": written.note}
        print_json(made | said | {"token": artifact.origin()})
    else:
        say(f"in a prompt of {file_format}: {written.prompt_name}")
        if written.note:
            say(written.note)
        print_paths(written.files)


def import_token(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .safetensors, .pt or .bin file.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="TOKEN.safetensors", help="To write.", show_default=False
        ),
    ],
    second: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The second of a pair for SDXL: learned_embeds_2.safetensors."
        ),
    ] = None,
    placeholder: Annotated[
        str | None,
        typer.Option(
            metavar="<NAME>",
            help="The token's name in prompts.",
            show_default="the name in the file",
        ),
    ] = None,
    backbone: options.ModelOption = "miniature",
    as_json: options.JsonOption = False,
) -> None:
    """Read what another program has learned, and write it as a token of ours.

    Say which model it was learned on: the file does not. Nothing in a file is ever executed.
    """
    from dti_engine.artifacts.importers import import_token as read

    model = open_backbone(backbone)
    artifact = read([file, *([second] if second else [])], model, placeholder=placeholder)
    artifact.save(output)
    if as_json:
        print_json({"path": str(output), "num_vectors": artifact.manifest.num_vectors})
    else:
        print_paths([output])
