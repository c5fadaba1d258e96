"""Options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from dti_engine.config import DtypeName
from dti_engine.errors import ConfigurationError

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
ModelOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A name of [cyan]dti models[/], a folder in the diffusers layout, or a hub id; "
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
SeedsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--seeds",
        metavar="SEEDS",
        help="Generate one image per seed: 7, or 0-3, or 1,4,9.",
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
        "--negative-prompt",
        metavar="TEXT",
        help="What to keep away.",
        rich_help_panel=GENERATION_PANEL,
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


def parse_seeds(text: str) -> Sequence[int]:
    """Return the seeds that `--seeds` names: `7`, `0-3`, `1,4,9`, or a mix such as `0-3,8`.

    A single range stays a `range`, however long it is.

    Raises: ConfigurationError if the text is malformed or names a seed twice.
    """
    try:
        parts = [_parse_range(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"--seeds takes 7, 0-3 or 1,4,9, got {text!r:.80}") from None
    if len(parts) == 1:
        return parts[0]
    seeds = [seed for part in parts for seed in part]
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"--seeds {text:.80} names a seed twice")
    return seeds


def _parse_range(text: str) -> range:
    """Return the range of `first-last` or of a single number. Raises: ValueError."""
    first, is_range, last = text.strip().partition("-")
    start = int(first)
    seeds = range(start, (int(last) if is_range else start) + 1)
    if not seeds:
        raise ValueError(text)
    return seeds
