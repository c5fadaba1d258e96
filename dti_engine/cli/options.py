"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from dti_engine.config import DtypeName

MODEL_PANEL = "Model"
GENERATION_PANEL = "Generation"

BUNDLE_HELP = "A folder, zip or tar of 3 to 6 images of one subject."

TokenArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="TOKEN.safetensors",
        help="A token that [cyan]dti train[/] wrote.",
        show_default=False,
    ),
]
BackboneOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="A name of [cyan]dti backbones[/], a folder in the diffusers layout, or a hub id; "
        "names and ids may end in @revision.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DeviceOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="[cyan]auto[/] is CUDA if there is a GPU, else the CPU.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DtypeOption: TypeAlias = Annotated[
    DtypeName,
    typer.Option(
        "--dtype",
        help="Of the model; learned rows and the vocabulary are always float32. [cyan]auto[/] is "
        "bfloat16 where the device computes in it, else float32.",
        rich_help_panel=MODEL_PANEL,
    ),
]
CompileOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the denoiser: minutes at the start, then faster; for long runs.",
        rich_help_panel=MODEL_PANEL,
    ),
]
RecomputeOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--recompute",
        help="Save memory in training: compute activations twice; done anyway if they do not fit "
        "on CUDA.",
        rich_help_panel=MODEL_PANEL,
    ),
]
OutputFolderOption: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for what is made.")
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON to stdout, and only that.")
]
JsonLinesOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json", help="Print what happens to stdout as lines of JSON; the last one sums it up."
    ),
]
GenerationSeedOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Of the first image; the next one's is 1 higher.",
        rich_help_panel=GENERATION_PANEL,
    ),
]
GenerationStepsOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--steps", min=1, help="Denoising steps of an image.", rich_help_panel=GENERATION_PANEL
    ),
]
GuidanceOption: TypeAlias = Annotated[
    float,
    typer.Option(
        "--guidance",
        min=1.0,
        help="How strongly the prompt is followed; 1 is not at all guided.",
        rich_help_panel=GENERATION_PANEL,
    ),
]
NegativeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--negative", metavar="TEXT", help="What to keep away.", rich_help_panel=GENERATION_PANEL
    ),
]
InstructionOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--instruction/--no-instruction",
        help="SANA: put its authors' instruction before the prompt.",
        rich_help_panel=GENERATION_PANEL,
    ),
]
BatchSizeOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--batch-size", min=1, help="Images generated at once.", rich_help_panel=GENERATION_PANEL
    ),
]
