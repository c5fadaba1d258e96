"""Arguments and options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from dti_engine.config import DtypeName
from dti_engine.errors import ConfigurationError

MODEL_PANEL = "Model"
GENERATION_PANEL = "Generation"
SERVICE_PANEL = "Service"

BUNDLE_HELP = "A folder, zip or tar of 3 to 6 images of one subject, its bundle.json, or one image."

# Defaults of generation, where neither the command line nor a service says otherwise.
STEPS = 25
GUIDANCE = 5.0

BundlesArgument: TypeAlias = Annotated[
    list[Path],
    typer.Argument(metavar="BUNDLE...", help=BUNDLE_HELP, show_default=False),
]
InitializersOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--initializer",
        "-i",
        metavar="WORD",
        help="The nearest common word: once for all bundles, or once per bundle.",
        show_default="the word in each bundle.json",
    ),
]
TrainAnywayOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Train what the model does not know, such as photographs on the miniature; the "
        "token's manifest keeps it.",
    ),
]
PlaceholderOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--placeholder",
        metavar="<NAME>",
        help="The token's name in prompts, if there is one bundle.",
        show_default="the name in bundle.json, or the bundle's file name",
    ),
]
TokenArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="TOKEN.safetensors",
        help="A token file, as [cyan]dti train[/] writes it.",
        show_default=False,
    ),
]
TokensOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--token",
        "-t",
        metavar="[<x>=]NAME",
        help="A token to use: a file, or with a service the id of a subject or token. "
        '[cyan]"<dog>=NAME"[/] gives it another placeholder. May be repeated.',
        show_default=False,
    ),
]
ModelOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A name in [cyan]dti models[/], a folder in the diffusers layout, or a hub id; "
        "names and ids may end in @revision.",
        rich_help_panel=MODEL_PANEL,
    ),
]
MiniatureOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The miniature, or a folder made by its recipe.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DeviceOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where the model runs; [cyan]auto[/] is CUDA if there is a GPU, else the CPU.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DtypeOption: TypeAlias = Annotated[
    DtypeName,
    typer.Option(
        "--dtype",
        help="Number format of the model; tokens are always float32. [cyan]auto[/] is bfloat16 "
        "where the device computes in it, else float32.",
        rich_help_panel=MODEL_PANEL,
    ),
]
CompileOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the denoiser: takes minutes at the start and pays off in long runs.",
        rich_help_panel=MODEL_PANEL,
    ),
]
RecomputeOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--recompute",
        help="Save memory in training by computing activations twice; automatic on CUDA if they "
        "do not fit.",
        rich_help_panel=MODEL_PANEL,
    ),
]
OutputFolderOption: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.")
]
ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Replace a file that is there already.")
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout, and nothing else.")
]
JsonLinesOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json", help="Print events to stdout as lines of JSON; the last line sums up the run."
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
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Denoising steps of an image.",
        rich_help_panel=GENERATION_PANEL,
        show_default=f"{STEPS}, or the service's",
    ),
]
GuidanceOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=1.0,
        help="How strongly images follow the prompt; 1 turns guidance off.",
        rich_help_panel=GENERATION_PANEL,
        show_default=f"{GUIDANCE}, or the service's",
    ),
]
NegativePromptOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt",
        metavar="TEXT",
        help="What images should not show.",
        rich_help_panel=GENERATION_PANEL,
        show_default="nothing",
    ),
]
InstructionOption: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--instruction/--no-instruction",
        help="Put the instruction of SANA's authors before the prompt; other models ignore this.",
        rich_help_panel=GENERATION_PANEL,
        show_default="instruction",
    ),
]
BatchSizeOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images generated at once.",
        rich_help_panel=GENERATION_PANEL,
        show_default="8",
    ),
]
RemoteModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A name in [cyan]dti models[/], a folder in the diffusers layout, or a hub id; "
        "with --server, a model of the service.",
        rich_help_panel=MODEL_PANEL,
        show_default="miniature, or the service's first",
    ),
]
RemoteServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Generate with the service at this URL instead of on this machine.",
        rich_help_panel=SERVICE_PANEL,
        show_default="this machine generates",
    ),
]
ApiKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="DTI_API_KEY",
        help="API key of the service. Prefer the variable where other users can see processes.",
        rich_help_panel=SERVICE_PANEL,
        show_default="the key that dti serve noted with the server",
    ),
]
SizeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WIDTHxHEIGHT",
        help="Size of the images in pixels, if a service generates them.",
        rich_help_panel=SERVICE_PANEL,
        show_default="the model's own",
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
