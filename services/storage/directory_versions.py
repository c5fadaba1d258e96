"""The versions of one object as files in one folder, right between processes without locks.

Versions are numbered files, and the highest number is the object: a file holds its bytes, a
symbolic link says that it was deleted. A version is made by link(2) or symlink(2) under the next
number, which fails if that exists, so of many processes one wins. No number is ever used twice:

- The highest number is never removed, so it never falls.
- A number is removed only once one that is `KEPT` higher exists. So whoever made number n, and then
  sees none from n + KEPT on, knows that n was free because it was next. Whoever sees one was either
  paused for so long that n had been removed, or was overwritten as often within microseconds: its
  version is not the object, and counts as lost.
- A superseded file first loses the right to be read, then its bytes, so that what was erased is
  gone. Whoever was reading it sees so by its mode, and reads again.
"""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from services.errors import OutcomeUnknownError

KEPT = 8


class SupersededError(Exception):
    """What was looked at is no longer the newest version: look again."""


@dataclass(frozen=True, slots=True)
class Version:
    """The newest version when it was looked at."""

    number: int
    deleted: bool
    """Then it has no bytes."""
    size: int
    modified: float
    """When its bytes were written, since the epoch."""


def newest(folder: Path) -> Version | None:
    """The newest version, which may say that the object was deleted; None: there never was one."""
    while True:
        numbers = _numbers(folder)
        if not numbers:
            return None
        with suppress(FileNotFoundError, SupersededError):
            status = (folder / _name(max(numbers))).lstat()
            return _version(max(numbers), status)


def read(folder: Path, version: Version, start: int, length: int | None) -> bytes:
    """Bytes of a version. Raises: SupersededError."""
    path = folder / _name(version.number)
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise SupersededError from error
    except PermissionError:
        _version(version.number, path.lstat())
        raise
    with file:
        file.seek(start)
        end = version.size if length is None else min(start + length, version.size)
        parts: list[bytes] = []
        while (missing := end - start - sum(map(len, parts))) > 0 and (part := file.read(missing)):
            parts.append(part)
        _version(version.number, os.fstat(file.fileno()))
        return b"".join(parts)


def append(folder: Path, seen: Version | None, file: Path | None) -> int | None:
    """Make the version that follows `seen`: the bytes of `file`, or, without one, a deletion.

    Returns its number, or None if another version followed. When it returns, it is on disk.

    Raises: OutcomeUnknownError if the version was made, and the disk then failed.
    """
    number = 1 if seen is None else seen.number + 1
    path = folder / _name(number)
    try:
        if file is None:
            path.symlink_to("deleted")
        else:
            os.link(file, path)
    except FileExistsError:
        return None
    with _done(folder):
        if max(_numbers(folder)) >= number + KEPT:
            path.unlink(missing_ok=True)
            return None
        sync_folder(folder)
    trim(folder, number)
    return number


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def trim(folder: Path, number: int) -> None:
    """Free the bytes of versions below `number`, and the names of those far below.

    Raises: OutcomeUnknownError.
    """
    with _done(folder):
        for old in _numbers(folder):
            if old <= number - KEPT:
                (folder / _name(old)).unlink(missing_ok=True)
            elif old < number:
                _supersede(folder / _name(old))


@contextmanager
def _done(folder: Path) -> Generator[None]:
    """What fails in here fails after a version was made."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknownError(
            f"writing in {str(folder)!r}: {error.strerror}; it may have been done all the same: "
            "read before trying again"
        ) from error


def _supersede(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # removed by another, or a deletion
            return
        raise
    try:
        os.fchmod(descriptor, stat.S_IWUSR)
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _version(number: int, status: os.stat_result) -> Version:
    deleted = stat.S_ISLNK(status.st_mode)
    if not deleted and not status.st_mode & stat.S_IRUSR:
        raise SupersededError
    return Version(number, deleted, 0 if deleted else status.st_size, status.st_mtime)


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]
    except FileNotFoundError:
        return []


def _name(number: int) -> str:
    return f"{number:016d}"
