"""Resolves the paths that a user gives as bundles, in the same way for every command.

A bundle is given as its folder, by its bundle.json, as an archive or as a single image; a folder of
bundles stands for all of them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.archives import is_archive
from dti_engine.images.bundles.layouts import is_image_folder
from dti_engine.images.bundles.members import is_ignored
from dti_engine.images.bundles.reader import DESCRIPTION
from dti_engine.images.bundles.sidecars import METADATA_FILES
from dti_engine.images.bundles.strays import is_class_folder, is_run_folder, is_side_folder
from dti_engine.images.file_formats import SUFFIXES
from dti_engine.images.png import is_plain_png

_HEAD_BYTES = 200  # of a PNG, enough to tell a contact sheet


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """Return the bundles that these paths are or contain.

    A folder with an image or `bundle.json` is a bundle, and so is one whose images lie in a single
    folder of a known layout, such as kohya's `10_dog`. Any other folder stands for its folders and
    archives, by name, if it has any. Ignored are the files that a bundle ignores, folders of class
    images, and what runs have written.

    Raises: InvalidBundleError if several images of one folder are given, which may be one subject
        or several.
    """
    given = [bundle_path(path) for path in paths]
    folders = Counter(path.parent for path in given if path.is_file() and not is_archive(path))
    if several := [folder for folder, count in folders.items() if count > 1]:
        raise InvalidBundleError(
            f"{folders[several[0]]} images in {str(several[0])!r} are given one by one; give the "
            "folder itself if they show one subject, else put each subject into a folder of its own"
        )
    return [bundle for path in given for bundle in _bundles_in(path)]


def bundle_path(path: Path) -> Path:
    """Return the place of a bundle that a user names: `~` is expanded, bundle.json is its folder.

    Paths without a meaning of that kind, also of files that do not exist, are returned as they are.
    """
    try:
        path = path.expanduser()
    except RuntimeError:  # there is no such user, so the `~` is part of the name
        return path
    named = {DESCRIPTION, *METADATA_FILES}
    return path.parent if path.name in named and path.is_file() else path


def _bundles_in(path: Path) -> list[Path]:
    try:
        if not path.is_dir() or _holds_images(path):
            return [path]
        children = [child for child in sorted(path.iterdir()) if _may_be_bundle(child)]
    except OSError:  # a folder that cannot be listed, which its reader refuses by name
        return [path]
    if len(children) == 1 and children[0].is_dir() and is_image_folder(children[0].name):
        inner = _bundles_in(children[0])
        return [path] if inner == children else inner
    return children or [path]


def _holds_images(folder: Path) -> bool:
    """Return whether a folder has an image or a description of its own."""
    children = [child for child in folder.iterdir() if not is_ignored(child.name)]
    return any(
        child.name == DESCRIPTION or (child.suffix.lower() in SUFFIXES and not _is_sheet(child))
        for child in children
    )


def _is_sheet(path: Path) -> bool:
    """Return whether a file is a contact sheet, which may lie beside bundles."""
    if path.suffix.lower() != ".png":
        return False
    with path.open("rb") as file:
        return is_plain_png(file.read(_HEAD_BYTES))


def _may_be_bundle(path: Path) -> bool:
    if is_ignored(path.name):
        return False
    if not path.is_dir():
        return is_archive(path)
    # A subject may be called model, and then its folder has images.
    is_side = is_side_folder(path.name) and not _holds_images(path)
    return not (is_side or is_class_folder(path.name) or is_run_folder(path))
