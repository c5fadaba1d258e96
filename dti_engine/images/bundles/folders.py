"""The entries of a folder. Links are never followed."""

import os
import stat
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.members import ArchiveMember, BundleLimits, is_ignored


def entries(folder: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """All entries, by name, those of its folders after each of them.

    Raises: InvalidBundleError if it cannot be listed.
    """
    yield from _walk(folder, "", limits)


def _walk(folder: Path, prefix: str, limits: BundleLimits) -> Iterator[ArchiveMember]:
    try:
        with os.scandir(folder) as found:
            # One more than allowed is enough to be refused, and a giant folder is never sorted.
            listed = sorted(islice(found, limits.max_entries + 1), key=lambda each: each.name)
    except OSError as error:
        raise InvalidBundleError(
            f"cannot list {str(folder)!r} ({error.strerror}); give a folder that can be read"
        ) from error
    for each in listed:
        name, path = prefix + each.name, Path(each.path)
        is_folder = each.is_dir(follow_symlinks=False)
        size = each.stat(follow_symlinks=False).st_size
        yield ArchiveMember(name, is_folder, _obstacle(each), size, partial(_open, path))
        if is_folder and not is_ignored(name) and name.count("/") < limits.max_depth:
            yield from _walk(path, f"{name}/", limits)


def _obstacle(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "a symbolic link; put the file itself there"
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        return "neither a file nor a folder; take it away"
    return None


def _open(path: Path) -> IO[bytes]:
    """The file, unless it was exchanged since it was listed: a link is refused, a pipe not awaited.

    Raises: OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "no longer a file")
    return os.fdopen(handle, "rb")
