"""Members of a folder, zip or tar, one after the other, against hostile archives.

No reader extracts to disk, follows a link or trusts a declared size. `ARCHIVE_ERRORS` are what the
standard library raises for damaged archives, also while a member is read.
"""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.members import ArchiveMember, BundleLimits, is_ignored

_ZIP_SUFFIXES, _TAR_SUFFIXES = (".zip",), (".tar", ".tar.gz", ".tgz")

ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,  # zipfile, for features that it lacks
    RecursionError,  # tarfile, for a long chain of extended headers
)


def is_archive(path: Path) -> bool:
    """Return whether the file's name has the suffix of a supported archive."""
    return path.name.lower().endswith((*_ZIP_SUFFIXES, *_TAR_SUFFIXES))


def bare_name(path: Path) -> str:
    """Return the name of a folder or archive without an archive's suffix."""
    name = path.resolve().name
    for suffix in sorted((*_ZIP_SUFFIXES, *_TAR_SUFFIXES), key=len, reverse=True):
        if name.lower().endswith(suffix) and not path.is_dir():
            return name[: -len(suffix)]
    return name


def members(path: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Return all members of a folder, zip or tar; read each before the next one is requested.

    Raises: InvalidBundleError if the folder or archive is rejected as a whole; ARCHIVE_ERRORS.
    """
    if path.is_dir():
        return _folder_members(path, "", limits)
    if not path.is_file():
        raise InvalidBundleError("does not exist; give a folder, zip or tar of images")
    name = path.name.lower()
    if os.path.getsize(path) > limits.max_archive_bytes:
        raise InvalidBundleError(
            f"larger than {limits.max_archive_bytes / 1e6:g} MB; pack fewer or smaller files"
        )
    if name.endswith(_ZIP_SUFFIXES):
        return _zip_members(path, limits)
    if name.endswith(_TAR_SUFFIXES):
        return _tar_members(path, limits)
    allowed = ", ".join((*_ZIP_SUFFIXES, *_TAR_SUFFIXES))
    raise InvalidBundleError(f"neither a folder nor one of {allowed}; pack the images so")


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
    for entry in entries:
        name, path = prefix + entry.name, Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        size = entry.stat(follow_symlinks=False).st_size
        yield ArchiveMember(
            name, is_folder, _entry_rejection(entry), size, partial(_open_file, path)
        )
        # Deeper folders would be rejected one by one anyway, so they are not even listed. A folder
        # that is ignored, such as .git, may be huge.
        if is_folder and not is_ignored(name) and name.count("/") < limits.max_depth:
            yield from _folder_members(path, f"{name}/", limits)


def _entry_rejection(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "a symbolic link; put the file itself there"
    if not entry.is_dir(follow_symlinks=False) and not entry.is_file(follow_symlinks=False):
        return "neither a file nor a folder; remove it"
    return None


def _open_file(path: Path) -> IO[bytes]:
    """Open a file that may have been replaced since it was listed. Raises: OSError."""
    # O_NOFOLLOW rejects a link, O_NONBLOCK keeps a named pipe from blocking.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "no longer a file")
    return os.fdopen(handle, "rb")


_ZIP_END = struct.Struct("<4s4H2LH")  # end of central directory record: APPNOTE 4.3.16
_ZIP_MAX_COMMENT_BYTES = 2**16 - 1
_ZIP64_LOCATOR_BYTES = 20  # APPNOTE 4.3.15
_ZIP_ENCRYPTED, _ZIP_UTF_8 = 0x1, 0x800  # general purpose bits: APPNOTE 4.4.4
# Python unpacks these piece by piece. Other methods expand at once, or need much memory.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _zip_members(path: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Yield all members of a zip file, in their order."""
    _check_zip_directory(path, limits)
    try:
        archive = zipfile.ZipFile(path)
    except UnicodeDecodeError as error:
        raise InvalidBundleError("a name in it is not valid UTF-8; pack it again") from error
    except ARCHIVE_ERRORS as error:
        raise InvalidBundleError(f"a damaged zip file ({error}); pack it again") from error
    with archive:
        for info in archive.infolist():
            name, opener = _zip_name(info), partial(archive.open, info)
            rejection = _zip_rejection(info)
            yield ArchiveMember(name, name.endswith("/"), rejection, info.file_size, opener)


def _check_zip_directory(path: Path, limits: BundleLimits) -> None:
    """Check the size of the central directory before zipfile reads the whole of it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _ZIP_END.size - _ZIP_MAX_COMMENT_BYTES))
        tail = file.read()
    # The last one, as zipfile searches it: both must find the same directory.
    start = tail.rfind(b"PK\5\6")
    if start < 0 or start + _ZIP_END.size > len(tail):
        raise InvalidBundleError("a damaged zip file: its end is missing; pack it again")
    directory_bytes = _ZIP_END.unpack_from(tail, start)[5]
    # A zip64 file has the size in another record, whose locator is right before this one.
    is_zip64 = start >= _ZIP64_LOCATOR_BYTES and tail.startswith(
        b"PK\6\7", start - _ZIP64_LOCATOR_BYTES
    )
    if directory_bytes > limits.max_directory_bytes or is_zip64:
        raise InvalidBundleError(
            f"its table of contents is larger than {limits.max_directory_bytes / 1e6:g} MB, or of "
            "the form for huge zips (zip64); pack fewer files"
        )


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the stored name; zipfile decodes the UTF-8 that some programs do not mark as cp437."""
    # `orig_filename` is the stored name. `filename` already ends at the first NUL byte, so that a
    # dangerous name could pass the rules as a harmless one.
    if info.flag_bits & _ZIP_UTF_8:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode("utf-8", "surrogateescape")


def _zip_rejection(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link; pack the file itself"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "neither a file nor a folder; remove it"
    if info.flag_bits & _ZIP_ENCRYPTED:
        return "encrypted; pack it without a password"
    if info.compress_type not in _ZIP_METHODS:
        return "compressed by an unusual method; pack it by deflate, which is usual"
    return None


_GZIP_MAGIC = b"\x1f\x8b"
_MAX_EMPTY_READS = 3  # at the end of the file; a valid archive needs one


class _LimitedStream(io.BufferedIOBase):
    """A file that yields at most `max_bytes`, the headers and padding of a tar included."""

    def __init__(self, file: gzip.GzipFile | IO[bytes], max_bytes: int) -> None:
        self._file, self._left, self._max_bytes = file, max_bytes, max_bytes
        self._num_empty = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0  # tarfile reads a stream in blocks
        data = self._file.read(min(size, self._left + 1))
        self._left -= len(data)
        # To skip a member of a declared 2**80 bytes, tarfile would read at the end for ever.
        self._num_empty += not data
        if self._num_empty > _MAX_EMPTY_READS:
            raise EOFError("it ends before its last entry does")
        if self._left < 0:
            raise InvalidBundleError(
                f"unpacks to more than {self._max_bytes / 1e6:g} MB; pack fewer or smaller files"
            )
        return data


def _tar_members(path: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Yield all members of a tar file, gzipped or not, in one pass from begin to end."""
    with path.open("rb") as file:
        # By content: a .tar.gz that is not compressed, and a .tar that is, are both common.
        is_gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        plain = gzip.GzipFile(fileobj=file) if is_gzipped else file
        # A header, or the padding of a member, is at most twice its 512 bytes.
        overhead_bytes = (limits.max_entries + 20) * 2048
        limited = _LimitedStream(plain, limits.max_unpacked_bytes + overhead_bytes)
        try:
            # Mode "r|" never seeks, so no header can send the reader backwards, into a loop.
            with tarfile.open(
                fileobj=limited, mode="r|", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                for member in archive:
                    yield _tar_member(archive, member)
        except ARCHIVE_ERRORS as error:
            raise InvalidBundleError(f"a damaged tar file ({error}); pack it again") from error


def _tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> ArchiveMember:
    def open_member() -> IO[bytes]:
        file = archive.extractfile(member)
        assert file  # None only for members with a rejection
        return file

    rejection = _tar_rejection(member)
    return ArchiveMember(member.name, member.isdir(), rejection, member.size, open_member)


def _tar_rejection(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link; pack the file itself"
    if member.issparse():
        return "a sparse file; pack it in full"
    if not member.isreg() and not member.isdir():
        return "neither a file nor a folder; remove it"
    return None
