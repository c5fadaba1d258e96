"""Versions of one object as files in one folder, safe between processes without locks.

Versions are numbered files, and the highest number is the current one: a file holds the object's
bytes, a symbolic link says that it was deleted. A version is made by link(2) or symlink(2) under
the next number. The call fails if the name exists, so that of many processes one wins: this is
compare-and-swap by the file system. No number is ever used twice:

- The highest number is never removed, so that it never falls.
- A number is removed only once one exists that is `KEPT` higher. A writer that made number n, and
  then sees none from n + KEPT on, thus knows that n was free because it was the next one. If it
  sees one, it was either suspended for so long that n had been removed, or was overwritten that
  often within microseconds: its version is not the current one, and counts as lost.
- A superseded file first loses its permission to be read, then its bytes, so that erased bytes are
  gone. A process that was reading it notices the change of mode, and reads again.
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
"""Numbers behind the current one that are not removed."""


class VersionSupersededError(Exception):
    """A version is no longer the newest: read again."""


@dataclass(frozen=True, slots=True)
class Version:
    """The newest version at one moment."""

    number: int
    deleted: bool
    """Whether it is a deletion, without bytes."""
    size: int
    modified_ns: int
    """When its bytes were written, in nanoseconds by the clock of the store."""


def newest(folder: Path) -> Version | None:
    """Return the newest version, which may be a deletion, or None if there never was one."""
    while True:
        numbers = _numbers(folder)
        if not numbers:
            return None
        # Since the listing, others may have written so many versions that this one was removed.
        with suppress(FileNotFoundError, VersionSupersededError):
            status = (folder / _name(max(numbers))).lstat()
            return _version(max(numbers), status)


def read(folder: Path, version: Version, start: int, length: int | None) -> bytes:
    """Return bytes of a version, or raise VersionSupersededError."""
    path = folder / _name(version.number)
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise VersionSupersededError from error
    except PermissionError:
        # The writer of a later version takes the permission away first; anything else is an error.
        _version(version.number, path.lstat())
        raise
    with file:
        file.seek(start)
        end = version.size if length is None else min(start + length, version.size)
        parts: list[bytes] = []
        while (missing := end - start - sum(map(len, parts))) > 0 and (part := file.read(missing)):
            parts.append(part)
        # Checked after the last byte: an erasure first changes the mode, so that bytes which were
        # read before it are whole.
        _version(version.number, os.fstat(file.fileno()))
        return b"".join(parts)


def append(folder: Path, seen: Version | None, file: Path | None) -> int | None:
    """Make the version that follows `seen`: the bytes of `file`, or a deletion if that is None.

    Returns its number once it is on disk, or None if another version was made first.

    Raises:
        OutcomeUnknownError: The version was made, and the disk then failed.
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
    with _after_append(folder):
        # This writer was suspended until its number had been used and removed again: the name was
        # free, and yet not the next one.
        if max(_numbers(folder)) >= number + KEPT:
            path.unlink(missing_ok=True)
            return None
        sync_folder(folder)
    trim(folder, number)
    return number


def make_folder(folder: Path) -> None:
    """Make a folder, and what is missing above it, for this user alone, whatever the umask."""
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        make_folder(folder.parent)
        make_folder(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(0o700)


def open_private(path: str, flags: int) -> int:
    """Open a file as `os.open` does; a new one is for this user alone, whatever the umask."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def trim(folder: Path, number: int) -> None:
    """Erase the bytes of versions below `number`, and remove the names of those far below.

    Raises:
        OutcomeUnknownError: The disk failed.
    """
    with _after_append(folder):
        for old in _numbers(folder):
            if old <= number - KEPT:
                (folder / _name(old)).unlink(missing_ok=True)
            elif old < number:
                _erase(folder / _name(old))


@contextmanager
def _after_append(folder: Path) -> Generator[None]:
    """Translate errors that occur after a version was made, so that it may stand."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknownError(
            f"writing in {str(folder)!r}: {error.strerror}; it may have been applied: "
            "read before trying again"
        ) from error


def _erase(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # Removed by another process, or a deletion.
            return
        raise
    try:
        # The mode first: see `read`. The owner can still write, so that an erasure which was
        # interrupted can be repeated.
        os.fchmod(descriptor, stat.S_IWUSR)
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _version(number: int, status: os.stat_result) -> Version:
    deleted = stat.S_ISLNK(status.st_mode)
    if not deleted and not status.st_mode & stat.S_IRUSR:
        raise VersionSupersededError
    return Version(number, deleted, 0 if deleted else status.st_size, status.st_mtime_ns)


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdecimal()]
    except FileNotFoundError:
        return []


def _name(number: int) -> str:
    return f"{number:016d}"
