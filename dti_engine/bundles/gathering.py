"""Folders of bundles: thousands need not be named one by one."""

from collections.abc import Sequence
from pathlib import Path

from dti_engine.bundles.contents import DESCRIPTION, is_archive
from dti_engine.bundles.names import is_passed_over

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def gathered(paths: Sequence[Path]) -> list[Path]:
    """The bundles that these are or hold.

    A folder with a picture or `bundle.json` is a bundle; one with neither gives its folders and
    archives, by name, if it has any. What hides or is passed over in bundles is passed over here.
    """
    return [bundle for path in paths for bundle in _within(path) or [path]]


def _within(path: Path) -> list[Path]:
    """What a folder of bundles holds; nothing if it is none."""
    if not path.is_dir():
        return []
    found = sorted(each for each in path.iterdir() if not is_passed_over(each.name))
    if any(each.name == DESCRIPTION or each.suffix.lower() in _PICTURES for each in found):
        return []
    return [each for each in found if each.is_dir() or is_archive(each)]
