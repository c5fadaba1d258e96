"""`dti export` and `dti import`: tokens to and from the files of other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.cli import options
from dti_engine.cli.console import print_json, print_paths, say
from dti_engine.cli.loading import open_backbone
from dti_engine.config import ExportFormat
from dti_engine.files import require_replaceable, require_separate

if TYPE_CHECKING:
    from dti_engine.artifacts.manifest import Manifest

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
            help="The program that reads the file. [cyan]diffusers[/]: load_textual_inversion; "
            "[cyan]a1111[/]: also Forge, FILE may end in .pt; [cyan]onetrainer[/]: also SANA.",
        ),
    ] = "diffusers",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write a token in the format of another program, and print the paths.

    Also prints how prompts of that program name the token. A token of SDXL becomes two files for
    diffusers, FILE and FILE_2, and one file for the others.
    """
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.artifacts.exporters import convert

    artifact = Artifact.load(file)
    exported = convert(artifact, output, file_format)
    require_separate(exported.files, [file])
    for path, content in exported.contents.items():
        require_replaceable(path, lambda data, new=content: data == new, force=force)
    exported.save()
    if as_json:
        print_json(
            {
                "files": [str(path) for path in exported.files],
                "format": file_format,
                "prompt_name": exported.prompt_name,
                "note": exported.note,
                "token": artifact.origin(),
            }
        )
    else:
        say(f"in a prompt of {file_format}: {exported.prompt_name}")
        if exported.note:
            say(exported.note)
        print_paths(exported.files)


def import_token(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to read; its content tells its format, not its name.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="TOKEN.safetensors",
            help="Token file to write.",
            show_default=False,
        ),
    ],
    second: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The second file of a pair for SDXL: learned_embeds_2.safetensors."
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
    model: options.ModelOption = "miniature",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Read an embedding of another program, and write it as a token.

    --model names the model that the embedding was trained with, since the file does not name it.
    A token of ours, and a safetensors file that `dti export` wrote, keeps its name and its history.
    Nothing in the file is executed.
    """
    from dti_engine.artifacts.importers import import_token as read

    files = [file, *([second] if second else [])]
    require_separate([output], files)
    backbone = open_backbone(model)
    artifact = read(files, backbone, placeholder=placeholder)
    require_replaceable(output, artifact.is_same_token, force=force)
    artifact.save(output)
    _report_import(artifact.manifest, output, as_json=as_json)


def _report_import(manifest: "Manifest", output: Path, *, as_json: bool) -> None:
    """Print the path of an imported token, and how a prompt with it is pooled."""
    origin = manifest.origin
    if as_json:
        print_json(
            {
                "path": str(output),
                "num_vectors": manifest.num_vectors,
                "origin": origin.kind,
                "pooling": origin.pooling,
            }
        )
        return
    if origin.kind == "imported" and origin.pooling:
        place = "at its end" if origin.pooling == "eos" else "at the token"
        say(f"a prompt with it is pooled {place}, as the program that trained it pools")
    print_paths([output])
