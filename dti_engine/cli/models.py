"""`dti models`: the models with short names, their sizes, and downloads of their weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from dti_engine.cli import options
from dti_engine.cli.console import (
    Commands,
    examples,
    mount,
    print_json,
    quiet_libraries,
    require_extra,
    results,
    say,
)
from dti_engine.domains import DOMAINS, ModelDomain
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from dti_engine.backbones.registry import ModelDescription

EXAMPLES = (
    "dti models",
    "dti train photos/rex --initializer dog --model sdxl --output tokens",
    "dti train photos/rex --initializer dog --model sdxl@main --output tokens",
    "dti models --json",
    "dti models fetch sdxl",
)
FETCH_EXAMPLES = (
    "dti models fetch sdxl",
    "HF_HOME=/models HF_TOKEN=hf_... dti models fetch sd15 owner/private-model@main",
)

_CAPTION = (
    "dims: of the words of each text encoder. denoiser: parameters. weights: GB on a GPU. "
    "training: GB for one subject with and without --recompute, counted and not measured. "
    "download: GB. A licence is that of the model's page, which has the last word."
)


app = typer.Typer(cls=Commands, rich_markup_mode="rich", invoke_without_command=True)


@app.callback(epilog=examples(*EXAMPLES))
def models(context: typer.Context, as_json: options.JsonOption = False) -> None:
    """List the models that [cyan]--model[/] knows by a short name: domain, memory and licence.

    A short name stands for a hub id, which is downloaded on first use. --model takes other hub ids
    too, and folders in the diffusers layout; a folder that is called like a short name is written
    as a path, such as ./sdxl. A name or id may end in @revision: a branch, tag or commit.

    The list itself downloads and loads nothing.
    """
    if context.invoked_subcommand:
        if as_json:
            raise ConfigurationError(
                f"--json stands before {context.invoked_subcommand}, where it is for the list "
                f"alone: write dti models {context.invoked_subcommand} ... --json"
            )
        return
    from dti_engine.backbones.checkpoint import MINIATURE
    from dti_engine.backbones.registry import catalogue, describe, stored_parameters

    listed = list(catalogue().values())
    if MINIATURE.is_dir():  # its weights are optional
        listed.insert(0, describe("miniature", MINIATURE, stored_parameters(MINIATURE)))
    if as_json:
        print_json([_document(model) for model in listed])
    else:
        results.print(_table(listed))
        results.print()
        results.print(_sources(listed))


def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Short names, or hub ids; each may end in @revision.",
            show_default=False,
        ),
    ],
    as_json: options.JsonOption = False,
) -> None:
    """Download models into the cache of the hub, for machines that load them later.

    Only the files that are loaded are downloaded, and those that are there already are kept: after
    an interruption the same command continues with the file at which it stopped. The cache is in
    the folder of the variable HF_HOME; private and gated models need a token in HF_TOKEN.
    """
    require_extra("engine")
    quiet_libraries(downloading=True)
    from dti_engine.backbones.checkpoint import open_checkpoint, require_downloadable

    for name in names:  # all of them, before the first download of gigabytes
        require_downloadable(name)
    fetched: list[dict[str, Any]] = []
    for name in names:
        say(f"fetching {name}")
        folder = open_checkpoint(name).folder
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        fetched.append({"name": name, "folder": str(folder), "bytes": size})
    if as_json:
        print_json(fetched)
        return
    for model in fetched:
        results.print(
            f"{model['name']}  {_gigabytes(model['bytes'])} GB  {Path(model['folder'])}",
            soft_wrap=True,
        )


mount(app, fetch, FETCH_EXAMPLES)


def _document(model: "ModelDescription") -> dict[str, Any]:
    domain = DOMAINS[model.name]
    return {
        "name": model.name,
        "hub_id": model.hub_id,
        "image_size": model.image_size,
        "objective": model.objective,
        "text_dims": dict(model.text_dims),
        "parameters": {part.name: part.parameters for part in model.parts},
        "device_bytes": model.device_bytes,
        "download_bytes": model.published_bytes if model.hub_id else 0,
        "learns_photographs": domain.learns_photographs,
        "class_words": list(domain.things) or None,
        "licence": domain.licence,
        "training_bytes": domain.training_bytes,
        "training_bytes_recompute": domain.recompute_bytes,
        "measured": domain.measured,
    }


def _table(models: list["ModelDescription"]) -> Table:
    table = _plain_table("name", "learns")
    for heading in ("px", "dims", "denoiser", "weights", "training", "download"):
        table.add_column(heading, justify="right")
    for model in models:
        domain = DOMAINS[model.name]
        table.add_row(
            model.name,
            "photographs" if domain.learns_photographs else "drawings",
            str(model.image_size),
            "+".join(str(dim) for dim in model.text_dims.values()),
            _count(model.denoiser.parameters),
            _gigabytes(model.device_bytes),
            _training(domain),
            _gigabytes(model.published_bytes) if model.hub_id else "-",
        )
    return table


def _sources(models: list["ModelDescription"]) -> Table:
    """Return where each model comes from, in a table of its own: hub ids are long."""
    table = _plain_table("name", "licence, and hub id", caption=_CAPTION)
    for model in models:
        source = model.hub_id or "ships with dti"
        table.add_row(model.name, f"{DOMAINS[model.name].licence}\n{source}")
    return table


def _plain_table(*headings: str, caption: str | None = None) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption=caption,
        caption_justify="left",
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _training(domain: ModelDomain) -> str:
    """Return the memory of a training step, with and without --recompute."""
    if domain.training_bytes is None or domain.recompute_bytes is None:
        return "any"
    return f"{_gigabytes(domain.recompute_bytes)}-{_gigabytes(domain.training_bytes)}"


def _count(parameters: int) -> str:
    """Return a count with three digits, such as 699K, 83.7M or 2.57B."""
    unit, size = next((u, s) for u, s in (("B", 1e9), ("M", 1e6), ("K", 1e3)) if parameters >= s)
    scaled = parameters / size
    return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else f"{size / 1e9:.3f}"
