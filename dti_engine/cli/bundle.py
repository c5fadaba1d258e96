"""`dti bundle`: look at images before anything is trained on them."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options
from dti_engine.cli.console import Commands, mount, print_json, print_paths, results, say, warn
from dti_engine.cli.subjects import placeholder_of
from dti_engine.config import CaptionFamily
from dti_engine.files import atomic_write
from dti_engine.text.captions import CAPTION_TEMPLATES

if TYPE_CHECKING:
    from dti_engine.images.bundles.bundle import Bundle
    from dti_engine.images.bundles.members import BundleFinding

CHECK_EXAMPLES = (
    "dti bundle check photos/rex",
    "dti bundle check photos/* --resolution 64 --json",
    "dti bundle check rex.zip tom.tar.gz",
)
PREVIEW_EXAMPLES = (
    "dti bundle preview photos/rex -o rex.png",
    "dti bundle preview rex.zip --resolution 64 -o rex.png",
)

_Resolution = Annotated[
    int, typer.Option("--resolution", min=8, help="Side of the crops in px, as in training.")
]


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help=options.BUNDLE_HELP, show_default=False),
    ],
    resolution: _Resolution = 512,
    as_json: options.JsonOption = False,
) -> None:
    """Judge bundles as training would: every image, caption and mask, by name.

    A bundle is a folder, zip or tar of one subject's images; see docs/bundles.md. The exit code
    is 2 if anything is refused; warnings leave it at 0.
    """
    from dti_engine.images.bundles.bundle import check_bundle

    checked = list["Bundle"]()
    for path in paths:
        checked.append(check_bundle(path, resolution=resolution))
        if not as_json:
            _show(checked[-1])
    num_refused = sum(1 for bundle in checked if bundle.errors)
    if as_json:
        print_json({"bundles": [_document(bundle) for bundle in checked]})
    else:
        say(f"{len(checked)} bundles checked, {num_refused} refused")
    raise typer.Exit(2 if num_refused else 0)


def preview(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help=options.BUNDLE_HELP, show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE.png", help="To write.", show_default=False),
    ],
    resolution: _Resolution = 512,
    captions: Annotated[
        CaptionFamily | None,
        typer.Option(
            metavar="FAMILY",
            help=f"Of templates: {', '.join(get_args(CaptionFamily))}.",
            show_default="the bundle's kind, or object",
        ),
    ] = None,
) -> None:
    """Draw what the model will see: each crop with its caption, outside of masks dimmed.

    Writes a contact sheet as PNG and prints its path.
    """
    from dti_engine.images.bundles.bundle import load_bundle
    from dti_engine.images.bundles.contact_sheet import contact_sheet

    bundle = load_bundle(path, resolution=resolution)
    for warning in bundle.warnings:
        warn(str(warning))
    family = captions or bundle.description.kind or "object"
    sheet = contact_sheet(
        bundle,
        resolution=resolution,
        placeholder=placeholder_of(path, bundle.description),
        templates=CAPTION_TEMPLATES[family],
    )
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    atomic_write(output, buffer.getvalue())
    print_paths([output])


def _document(bundle: "Bundle") -> dict[str, Any]:
    subject_images = [
        {
            "name": each.name,
            "width": each.original_size[0],
            "height": each.original_size[1],
            "sha256": each.sha256,
            "caption": each.caption,
            "has_mask": each.mask is not None,
        }
        for each in bundle.images
    ]
    said = bundle.description.model_dump(mode="json", exclude={"images"})
    return {"path": str(bundle.path), **said, "images": subject_images} | {
        "errors": [_finding(each) for each in bundle.errors],
        "warnings": [_finding(each) for each in bundle.warnings],
    }


def _finding(finding: "BundleFinding") -> dict[str, str]:
    return {"name": finding.name, "reason": finding.reason}


def _show(bundle: "Bundle") -> None:
    title = escape(str(bundle.path))
    if word := bundle.description.initializer:
        title += f" [dim]({escape(word)})[/]"
    table = Table("image", "px", "caption", "mask", "remarks", title=title, title_justify="left")
    subject_images = {each.name: each for each in bundle.images}
    remarks: dict[str, list[str]] = {name: [] for name in subject_images}
    for label, findings in (
        ("[bold red]refused:[/] ", bundle.errors),
        ("[yellow]warning:[/] ", bundle.warnings),
    ):
        for each in findings:
            remarks.setdefault(each.name, []).append(label + escape(each.reason))
    on_all = remarks.pop("", [])
    for name in sorted(remarks):
        subject_image = subject_images.get(name)
        size = "{} x {}".format(*subject_image.original_size) if subject_image else ""
        caption = escape(subject_image.caption or "[template]") if subject_image else ""
        mask = "yes" if subject_image and subject_image.mask is not None else ""
        table.add_row(escape(name), size, caption, mask, "\n".join(remarks[name]))
    results.print(table)
    for remark in on_all:
        results.print(remark)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look at images before anything is trained on them.",
)
mount(app, check, CHECK_EXAMPLES)
mount(app, preview, PREVIEW_EXAMPLES)
