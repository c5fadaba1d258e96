"""Members of a folder, zip or tar, one after the other, against hostile folders and archives.

A folder is listed here; an archive is unpacked in the sandbox. Nothing is extracted to disk, and no
link is followed.
"""

import io
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from glob import escape
from itertools import islice
from pathlib import Path
from typing import IO, TypeAlias

from dti_engine.errors import InvalidBundleError
from dti_engine.files import RUN_LOG
from dti_engine.images.bundles import sandbox_process
from dti_engine.images.bundles.members import ArchiveMember, BundleLimits, brief, is_ignored
from dti_engine.images.bundles.sandbox import Reply, Sandbox
from dti_engine.images.bundles.strays import RUN_FOLDERS, is_side_folder
from dti_engine.images.bundles.unpacking import Form
from dti_engine.images.file_formats import SUFFIXES

_ZIP_SUFFIXES, _TAR_SUFFIXES = (".zip",), (".tar", ".tar.gz", ".tgz")
_MAX_MEMBER_BYTES = 16 * sandbox_process.MAX_NAME  # of JSON, where a character takes up to 12
_CRASH = "crashes the process that unpacks it; pack it again"
# O_NOFOLLOW rejects a link, O_NONBLOCK keeps a named pipe from blocking; Windows has neither.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


@dataclass(frozen=True)
class OpenArchive:
    """An archive in an open file, which needs no name, and so can leave nothing behind."""

    file: IO[bytes]
    form: Form


BundleSource: TypeAlias = Path | OpenArchive | Mapping[str, bytes]
"""A folder or archive by its path, an open archive, or the content of files by name."""


def is_archive(path: Path) -> bool:
    """Return whether the file's name has the suffix of a supported archive."""
    return path.name.lower().endswith((*_ZIP_SUFFIXES, *_TAR_SUFFIXES))


def bare_name(path: Path) -> str:
    """Return the name of a folder, archive or image without the suffix of a file."""
    name = path.resolve().name
    for suffix in sorted((*_ZIP_SUFFIXES, *_TAR_SUFFIXES), key=len, reverse=True):
        if name.lower().endswith(suffix) and not path.is_dir():
            return name[: -len(suffix)]
    return path.stem if path.suffix.lower() in SUFFIXES and path.is_file() else name


def members(source: BundleSource, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Return all members of a bundle; read each before the next one is requested.

    Raises: InvalidBundleError if the folder or archive is rejected as a whole; OSError.
    """
    if isinstance(source, OpenArchive):
        return _archive_members(source, limits)
    if not isinstance(source, Path):
        return _file_members(source)
    if source.is_dir():
        return _folder_members(source, "", limits)
    if not source.is_file():
        raise InvalidBundleError("does not exist; give a folder, zip or tar of images")
    name = source.name.lower()
    if name.endswith(_ZIP_SUFFIXES):
        return _members_of_path(source, "zip", limits)
    if name.endswith(_TAR_SUFFIXES):
        return _members_of_path(source, "tar", limits)
    if source.suffix.lower() in SUFFIXES:
        return _image_members(source)
    allowed = ", ".join((*_ZIP_SUFFIXES, *_TAR_SUFFIXES))
    raise InvalidBundleError(
        f"neither a folder nor one of {allowed}, nor an image; pack the images so"
    )


def _image_members(image: Path) -> Iterator[ArchiveMember]:
    """Yield an image and the files beside it that have its name: its caption and its mask."""
    for path in sorted(image.parent.glob(f"{escape(image.stem)}*")):
        # `rex.txt`, `rex.mask.png` and `rex-masklabel.png`, but not the image `rex.png` of another.
        rest = path.name.removeprefix(image.stem)
        is_beside = rest in (".txt", ".caption", "-masklabel.png", ".mask.png")
        if path.is_file() and (path == image or is_beside):
            opener = partial(_open_file, path)
            yield ArchiveMember(path.name, False, None, path.stat().st_size, opener)


def _file_members(files: Mapping[str, bytes]) -> Iterator[ArchiveMember]:
    for name, data in files.items():
        yield ArchiveMember(name, False, None, len(data), partial(io.BytesIO, data))


def _members_of_path(path: Path, form: Form, limits: BundleLimits) -> Iterator[ArchiveMember]:
    with path.open("rb") as file:
        yield from _archive_members(OpenArchive(file, form), limits)


def _archive_members(archive: OpenArchive, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Yield all members of an archive in their order. Raises: InvalidBundleError."""
    if os.fstat(archive.file.fileno()).st_size > limits.max_archive_bytes:
        raise InvalidBundleError(
            f"larger than {limits.max_archive_bytes / 1e6:g} MB; pack fewer or smaller files"
        )
    with Sandbox(
        limits,
        memory_bytes=limits.unpacking_memory_bytes,
        timeout_s=limits.unpacking_timeout_s,
        processor_s=limits.unpacking_timeout_s,
        archive=archive.file,
        form=archive.form,
    ) as sandbox:
        yield from _Unpacker(sandbox, limits.unpacking_timeout_s).members()


class _Unpacker:
    """The requests for one archive, within one time limit."""

    def __init__(self, sandbox: Sandbox, timeout_s: float) -> None:
        self._sandbox, self._timeout_s, self._left_s = sandbox, timeout_s, timeout_s

    def members(self) -> Iterator[ArchiveMember]:
        """Yield all members. Raises: InvalidBundleError."""
        self._sandbox.start()  # no archive pays for the start with its timeout
        while body := self._request(sandbox_process.NEXT, _MAX_MEMBER_BYTES).body:
            yield self._member(body)

    def _member(self, body: bytes) -> ArchiveMember:
        try:
            values = json.loads(body)
            rejection = values["rejection"]
            return ArchiveMember(
                str(values["name"]),
                bool(values["is_folder"]),
                None if rejection is None else brief(str(rejection)),
                int(values["declared_bytes"]),
                partial(_Content, self),
            )
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise InvalidBundleError(_CRASH) from error

    def read(self) -> bytes:
        """Return the next piece of the member. Raises: OSError if it is damaged."""
        reply = self._request(sandbox_process.READ, sandbox_process.CHUNK_BYTES)
        if reply.outcome == "rejected":
            raise OSError(reply.reason)
        return reply.body

    def _request(self, kind: bytes, max_bytes: int) -> Reply:
        """Return a reply. Raises: InvalidBundleError if nothing more can be read."""
        start = time.monotonic()
        reply = self._sandbox.request(kind, max_bytes=max_bytes, timeout_s=max(self._left_s, 0))
        self._left_s -= time.monotonic() - start
        if reply.outcome == "late":
            raise InvalidBundleError(
                f"takes longer to unpack than {self._timeout_s:g} s; pack fewer or smaller files"
            )
        if reply.outcome == "crashed":
            raise InvalidBundleError(_CRASH)
        if reply.outcome == "ended":
            raise InvalidBundleError(reply.reason)
        return reply


class _Content(io.BufferedIOBase):
    """The content of the member that was requested last."""

    def __init__(self, unpacker: _Unpacker) -> None:
        self._unpacker, self._is_at_end = unpacker, False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece, whatever `size` says; nothing at the end."""
        if self._is_at_end:
            return b""
        piece = self._unpacker.read()
        self._is_at_end = len(piece) < sandbox_process.CHUNK_BYTES
        return piece


def _folder_members(folder: Path, prefix: str, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Yield all members by name, each folder before its content."""
    try:
        with os.scandir(folder) as found:
            # One more than allowed suffices to reject it, and a huge folder is never sorted.
            entries = sorted(islice(found, limits.max_entries + 1), key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidBundleError(
            f"cannot list {str(folder)!r} ({error.strerror}); give a folder that can be read"
        ) from error
    # A run that writes beside the images may have thousands of files, and they change meanwhile.
    is_run = any(entry.name == RUN_LOG for entry in entries)
    if is_run and prefix:
        return
    for entry in entries:
        name, path = prefix + entry.name, Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        size = entry.stat(follow_symlinks=False).st_size
        yield ArchiveMember(
            name, is_folder, _entry_rejection(entry), size, partial(_open_file, path)
        )
        # Deeper folders would be rejected one by one anyway, so they are not even listed. A folder
        # that is ignored, such as .git, may be huge.
        is_left_out = is_side_folder(entry.name) or (is_run and entry.name in RUN_FOLDERS)
        if is_folder and not (is_left_out or is_ignored(name)) and _is_shallow(name, limits):
            yield from _folder_members(path, f"{name}/", limits)


def _is_shallow(name: str, limits: BundleLimits) -> bool:
    return name.count("/") < limits.max_depth


def _entry_rejection(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "a symbolic link; put the file itself there"
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        return "neither a file nor a folder; remove it"
    return None


def _open_file(path: Path) -> IO[bytes]:
    """Open a file that may have been replaced since it was listed. Raises: OSError."""
    handle = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "no longer a file")
    return os.fdopen(handle, "rb")
