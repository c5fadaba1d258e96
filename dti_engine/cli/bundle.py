"""`dti bundle`: check and preview the images of subjects before training."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options
from dti_engine.cli.console import Commands, mount, print_json, print_paths, results, say, warn
from dti_engine.cli.subjects import placeholder_of
from dti_engine.config import CaptionFamily
from dti_engine.domains import ModelDomain, domain_of
from dti_engine.errors import ConfigurationError, TokenError
from dti_engine.files import atomic_write, require_replaceable, require_separate
from dti_engine.text.captions import CAPTION_TEMPLATES

if TYPE_CHECKING:
    from dti_engine.images.bundles.bundle import Bundle
    from dti_engine.images.bundles.members import BundleFinding
    from dti_engine.images.bundles.sidecars import SubjectWords

CHECK_EXAMPLES = (
    "dti bundle check photos/rex",
    "dti bundle check photos/* --resolution 64 --json",
    "dti bundle check rex.zip tom.tar.gz",
    "dti bundle check photos/rex --model miniature",
)
PREVIEW_EXAMPLES = (
    "dti bundle preview photos/rex -o rex.png",
    "dti bundle preview rex.zip --resolution 64 -o rex.png",
)

_Resolution = Annotated[
    int, typer.Option("--resolution", min=8, help="Side of the crops in pixels, as in training.")
]


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help=options.BUNDLE_HELP, show_default=False),
    ],
    resolution: _Resolution = 512,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model to compare with: whether it knows photographs, and the initializers.",
            rich_help_panel=options.MODEL_PANEL,
            show_default="none",
        ),
    ] = None,
    force: options.TrainAnywayOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Check bundles as training does, and list every image, caption and mask.

    A bundle is a folder, zip or tar of one subject's images; docs/how-to/bundles.md describes it.
    A folder of bundles stands for all of them, as in training. The exit code is 2 if a bundle is
    refused; warnings leave it at 0.
    """
    from dti_engine.images.bundles.bundle import check_bundle
    from dti_engine.images.bundles.paths import expand_paths

    domain = domain_of(model) if model else None
    checked = list["Bundle"]()
    for path in expand_paths(paths):
        bundle = check_bundle(path, resolution=resolution, words=_words(path))
        checked.append(_compared(bundle, domain, force=force))
        if not as_json:
            _print_bundle(checked[-1])
    num_refused = sum(1 for bundle in checked if bundle.errors)
    if as_json:
        print_json({"bundles": [_document(bundle) for bundle in checked]})
    else:
        noun = "bundle" if len(checked) == 1 else "bundles"
        say(f"{len(checked)} {noun} checked, {num_refused} refused")
    raise typer.Exit(2 if num_refused else 0)


def preview(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help=options.BUNDLE_HELP, show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE.png", help="Image to write.", show_default=False
        ),
    ],
    resolution: _Resolution = 512,
    captions: Annotated[
        CaptionFamily | None,
        typer.Option(
            metavar="FAMILY",
            help=f"Caption templates: {', '.join(get_args(CaptionFamily))}.",
            show_default="the bundle's kind, or object",
        ),
    ] = None,
) -> None:
    """Draw the crops that training uses, each with its caption, and dim what masks exclude.

    Writes a contact sheet as PNG and prints its path.
    """
    from dti_engine.images.bundles.bundle import load_bundle
    from dti_engine.images.bundles.paths import expand_paths
    from dti_engine.images.contact_sheet import contact_sheet
    from dti_engine.images.png import is_plain_png, plain_png

    path, *others = expand_paths([path])
    if others:
        raise ConfigurationError(
            f"{len(others) + 1} bundles are there, and a preview shows one; give one, such as "
            f"{str(path)!r}"
        )
    require_separate([output], [path])
    require_replaceable(output, is_plain_png)
    bundle = load_bundle(path, resolution=resolution, words=_words(path))
    for warning in bundle.warnings:
        warn(str(warning))
    family = captions or bundle.description.kind or "object"
    sheet = contact_sheet(
        bundle,
        resolution=resolution,
        placeholder=placeholder_of(path, bundle.description),
        templates=CAPTION_TEMPLATES[family],
    )
    atomic_write(output, plain_png(sheet))
    print_paths([output])


def _compared(bundle: "Bundle", domain: ModelDomain | None, *, force: bool) -> "Bundle":
    """Return the bundle with what a model does not know of it: errors, or warnings by --force."""
    from dti_engine.images.bundles.members import BundleFinding

    if domain is None:
        return bundle
    errors, warnings = list(bundle.errors), list(bundle.warnings)
    if problem := domain.image_problem(bundle.images):
        (warnings if force else errors).append(BundleFinding("", problem))
    if problem := domain.word_problem(bundle.description.initializer or ""):
        errors.append(BundleFinding("", problem))
    return replace(bundle, errors=errors, warnings=warnings)


def _words(path: Path) -> "SubjectWords":
    """Return the words that captions may have for the subject, where no option gives others."""
    from dti_engine.images.bundles.bundle import read_description
    from dti_engine.images.bundles.sidecars import SubjectWords

    try:
        return SubjectWords.of([placeholder_of(path, read_description(path))], [])
    except TokenError:  # the name of the folder has no letter; training will ask for another
        return SubjectWords()


def _document(bundle: "Bundle") -> dict[str, Any]:
    images = [
        {
            "name": image.name,
            "width": image.original_size[0],
            "height": image.original_size[1],
            "sha256": image.sha256,
            "caption": image.caption,
            "has_mask": image.mask is not None,
        }
        for image in bundle.images
    ]
    description = bundle.description.model_dump(mode="json", exclude={"images"})
    return {"path": str(bundle.path), **description, "images": images} | {
        "errors": [_finding(each) for each in bundle.errors],
        "warnings": [_finding(each) for each in bundle.warnings],
    }


def _finding(finding: "BundleFinding") -> dict[str, str]:
    return {"name": finding.name, "reason": finding.reason}


def _print_bundle(bundle: "Bundle") -> None:
    title = escape(str(bundle.path))
    if word := bundle.description.initializer:
        title += f" [dim]({escape(word)})[/]"
    table = Table("image", "px", "caption", "mask", "remarks", title=title, title_justify="left")
    images = {image.name: image for image in bundle.images}
    remarks: dict[str, list[str]] = {name: [] for name in images}
    for label, findings in (
        ("[bold red]refused:[/] ", bundle.errors),
        ("[yellow]warning:[/] ", bundle.warnings),
    ):
        for finding in findings:
            remarks.setdefault(finding.name, []).append(label + escape(finding.reason))
    on_bundle = remarks.pop("", [])  # findings without a name concern the whole bundle
    for name in sorted(remarks):
        image = images.get(name)
        size = "{} x {}".format(*image.original_size) if image else ""
        caption = escape(image.caption or "[template]") if image else ""
        mask = "yes" if image and image.mask is not None else ""
        table.add_row(escape(name), size, caption, mask, "\n".join(remarks[name]))
    results.print(table)
    for remark in on_bundle:
        results.print(remark)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Check and preview the images of subjects before training.",
)
mount(app, check, CHECK_EXAMPLES)
mount(app, preview, PREVIEW_EXAMPLES)
