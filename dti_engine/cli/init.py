"""`dti init`: write the bundle.json of a folder of images, and show what training will see."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from dti_engine.cli import options
from dti_engine.cli.console import print_json, print_paths, quiet_libraries, say, warn
from dti_engine.cli.subjects import placeholder_of
from dti_engine.config import Kind
from dti_engine.errors import ConfigurationError, InvalidBundleError, ModelLoadError
from dti_engine.files import atomic_write, unused_path
from dti_engine.text.captions import CAPTION_TEMPLATES

if TYPE_CHECKING:
    from dti_engine.images.bundles.bundle import Bundle

EXAMPLES = (
    "dti init photos/rex",
    "dti init photos/rex --class-word dog",
    "dti init photos --class-word dog --json",
)

_SHEET = "crops.png"


def init(
    paths: options.BundlesArgument,
    class_word: Annotated[
        str | None,
        typer.Option(
            "--class-word",
            metavar="WORD",
            help="The nearest common word for what the images show, such as dog.",
            show_default="what the data set says, else the command asks",
        ),
    ] = None,
    placeholder: options.PlaceholderOption = None,
    kind: Annotated[
        Kind | None,
        typer.Option(
            metavar="KIND", help=f"What the images show: {', '.join(get_args(Kind))}; else object."
        ),
    ] = None,
    resolution: Annotated[
        int, typer.Option(min=8, help="Side of the crops in pixels, as in training.")
    ] = 512,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write bundle.json for a folder of images: class word, captions and masks that are there.

    Captions and masks of other trainers are read as training reads them
    (docs/how-to/bundles.md). The command also draws all crops that training uses, with their
    captions, as crops.png in the folder, which training passes over. It prints both paths, and the
    command that comes next. With --force, an existing bundle.json is brought up to date, and keeps
    the fields that this command does not write.
    """
    from dti_engine.images.bundles.paths import expand_paths

    folders = expand_paths(paths)
    if placeholder and len(folders) > 1:
        raise ConfigurationError(
            f"--placeholder {placeholder} cannot name {len(folders)} bundles; leave it out"
        )
    for folder in folders:
        _require_writable(folder, force=force)
    documents = list[dict[str, Any]]()
    for folder in folders:
        word = class_word
        if word is None:
            word = _class_word(folder, may_ask=not as_json)
        document = _write(folder, word, placeholder, kind, resolution)
        documents.append(document)
        if not as_json:
            print_paths([Path(document["bundle_json"]), Path(document["sheet"])])
            _say(document)
    command = _next_command(paths)
    if as_json:
        print_json({"bundles": documents, "next": command})
    else:
        say(f"look at the crops, then: {command}")


def _require_writable(folder: Path, *, force: bool) -> None:
    """Refuse what is no folder, and a description that is there already.

    Raises: InvalidBundleError or ConfigurationError.
    """
    from dti_engine.images.bundles.reader import DESCRIPTION

    if not folder.exists():
        raise InvalidBundleError(f"{str(folder)!r} does not exist; give a folder of images")
    if not folder.is_dir():
        raise InvalidBundleError(
            f"{str(folder)!r} is no folder, so no {DESCRIPTION} can be written into it; "
            "put the images into a folder"
        )
    if (folder / DESCRIPTION).exists() and not force:
        raise ConfigurationError(
            f"{str(folder / DESCRIPTION)!r} is there already; edit it, or add --force to bring it "
            "up to date"
        )


def _class_word(folder: Path, *, may_ask: bool) -> str:
    """Return the class word that the data set says, or that a person at the terminal gives.

    Raises: ConfigurationError if neither is there.
    """
    from dti_engine.images.bundles.bundle import read_description

    if known := read_description(folder).initializer:
        return known
    if not (may_ask and _is_interactive()):
        raise ConfigurationError(
            f"nothing says what is in {str(folder)!r}; give --class-word and the nearest common "
            "word, such as dog"
        )
    question = f"What is in {folder.resolve().name}? The nearest common word, such as dog"
    suggestion = _seen_word(folder) or suggested_word(folder.resolve().name)
    return typer.prompt(question, default=suggestion, err=True).strip()


def _seen_word(folder: Path) -> str | None:
    """Return the word for what SigLIP sees, if the package and the model are on this machine.

    Raises: InvalidBundleError if training would refuse the folder.
    """
    from dti_engine.images.bundles.bundle import load_bundle

    quiet_libraries(downloading=False)
    try:
        from dti_engine.scorers.siglip import likely_class_word

        return likely_class_word([image.image for image in load_bundle(folder).images])
    except (ModuleNotFoundError, ModelLoadError):
        return None  # a suggestion is a convenience: without one, the name of the folder serves


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def suggested_word(name: str) -> str | None:
    """Return the last word of a folder's name without digits: `My_Dog (2)` gives dog."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    return words[-1] if words else None


def _write(
    folder: Path, word: str, placeholder: str | None, kind: Kind | None, resolution: int
) -> dict[str, Any]:
    """Write bundle.json and the sheet of crops of a folder, and return what was found.

    Raises: InvalidBundleError if training would refuse the folder; ConfigurationError if the
        options are not valid in bundle.json; OutputError.
    """
    from dti_engine.images.bundles.bundle import load_bundle
    from dti_engine.images.bundles.reader import DESCRIPTION
    from dti_engine.images.bundles.schema import parse
    from dti_engine.images.bundles.sidecars import SubjectWords
    from dti_engine.images.contact_sheet import contact_sheet
    from dti_engine.images.png import is_plain_png, plain_png

    name = placeholder or placeholder_of(folder, None)
    bundle = load_bundle(folder, resolution=resolution, words=SubjectWords.of([name], [word]))
    name = placeholder or placeholder_of(folder, bundle.description)
    kind = kind or bundle.description.kind
    description = _description(bundle, word, name, kind)
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    if errors := parse(text.encode())[1]:
        raise ConfigurationError(
            f"the options give no valid {DESCRIPTION}: {errors[0].reason}; give others"
        )
    sheet = contact_sheet(
        bundle,
        resolution=resolution,
        placeholder=name,
        templates=CAPTION_TEMPLATES[kind or "object"],
    )
    target = unused_path(folder / _SHEET, lambda path: is_plain_png(path.read_bytes()))
    atomic_write(target, plain_png(sheet))
    atomic_write(folder / DESCRIPTION, text.encode())
    return {
        "bundle_json": str(folder / DESCRIPTION),
        "sheet": str(target),
        "class_word": word,
        "placeholder": name,
        "images": len(bundle.images),
        "captions": sum(image.caption is not None for image in bundle.images),
        "masks": sum(image.mask is not None for image in bundle.images),
        "warnings": [str(warning) for warning in bundle.warnings],
    }


def _description(
    bundle: "Bundle", word: str, placeholder: str, kind: Kind | None
) -> dict[str, Any]:
    """Return the content of bundle.json; masks beside images are found again without it."""
    kept = bundle.description.model_dump(
        mode="json", exclude_defaults=True, exclude_none=True, exclude={"images"}
    )
    images = {
        image.name: notes.model_dump(exclude_none=True)
        for image in bundle.images
        if (notes := bundle.description.images.get(image.name))
    }
    for image in bundle.images:
        if image.caption is not None:
            images.setdefault(image.name, {})["caption"] = image.caption
    decided = {"placeholder": placeholder, "initializer": word, "kind": kind, "images": images}
    return kept | {name: value for name, value in decided.items() if value not in (None, {})}


def _say(document: dict[str, Any]) -> None:
    for warning in document["warnings"]:
        warn(warning)
    say(
        f"{document['placeholder']} is a {document['class_word']}: {document['images']} images, "
        f"{document['captions']} captions, {document['masks']} masks"
    )


def _next_command(paths: Sequence[Path]) -> str:
    return shlex.join(["dti", "train", *map(str, paths), "--model", "sdxl", "--output", "tokens"])
