"""Members of a zip or tar, one after the other, against hostile archives.

It runs in the sandboxed process. No reader extracts to disk, follows a link or trusts a declared
size. `ARCHIVE_ERRORS` are what the standard library raises for damaged archives, also while a
member is read.
"""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO, Literal, Self, TypeAlias

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.members import ArchiveMember, BundleLimits

Form: TypeAlias = Literal["zip", "tar"]  # a tar may be gzipped

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


def archive_members(file: IO[bytes], form: Form, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Return all members of an open archive; read each before the next one is requested.

    Raises: InvalidBundleError if the archive is rejected as a whole; ARCHIVE_ERRORS.
    """
    return _zip_members(file, limits) if form == "zip" else _tar_members(file, limits)


_ZIP_END = struct.Struct("<4s4H2LH")  # end of central directory record: APPNOTE 4.3.16
_ZIP_MAX_COMMENT_BYTES = 2**16 - 1
_ZIP64_LOCATOR_BYTES = 20  # APPNOTE 4.3.15
_ZIP_ENCRYPTED, _ZIP_UTF_8 = 0x1, 0x800  # general purpose bits: APPNOTE 4.4.4
# Python unpacks these piece by piece. Other methods expand at once, or need much memory.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _zip_members(file: IO[bytes], limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Yield all members of a zip file, in their order."""
    _check_zip_directory(file, limits)
    try:
        archive = zipfile.ZipFile(file)
    except UnicodeDecodeError as error:
        raise InvalidBundleError("a name in it is not valid UTF-8; pack it again") from error
    except ARCHIVE_ERRORS as error:
        raise InvalidBundleError(f"a damaged zip file ({error}); pack it again") from error
    with archive:
        for info in archive.infolist():
            name, opener = _zip_name(info), partial(archive.open, info)
            rejection = _zip_rejection(info)
            yield ArchiveMember(name, name.endswith("/"), rejection, info.file_size, opener)


def _check_zip_directory(file: IO[bytes], limits: BundleLimits) -> None:
    """Check the size of the central directory before zipfile reads the whole of it."""
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


# Each is read as a whole before the member that it is about.
_EXTENDED_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _limited_header(max_extended_bytes: int) -> type[tarfile.TarInfo]:
    """Return a class of headers whose extended headers have at most so many bytes in total."""
    left = max_extended_bytes

    class LimitedTarInfo(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            nonlocal left
            header = super().frombuf(buf, encoding, errors)
            if header.type in _EXTENDED_HEADERS:
                left -= max(header.size, 0)
            if left < 0:
                raise InvalidBundleError(
                    f"its extended headers have more than {max_extended_bytes / 1e6:g} MB; pack it "
                    "without extended attributes and under shorter names"
                )
            if header.type == tarfile.GNUTYPE_SPARSE:
                # Its map, which has no limit, would be read before the member could be rejected.
                raise InvalidBundleError("it holds a sparse file; pack it in full")
            return header

    return LimitedTarInfo


def _tar_members(file: IO[bytes], limits: BundleLimits) -> Iterator[ArchiveMember]:
    """Yield all members of a tar file, gzipped or not, in one pass from begin to end."""
    # By content: a .tar.gz that is not compressed, and a .tar that is, are both common.
    file.seek(0)
    is_gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    plain = gzip.GzipFile(fileobj=file) if is_gzipped else file
    # A header, or the padding of a member, is at most twice its 512 bytes.
    overhead_bytes = (limits.max_entries + 20) * 2048
    limited = _LimitedStream(plain, limits.max_unpacked_bytes + overhead_bytes)
    try:
        # Mode "r|" never seeks, so no header can send the reader backwards, into a loop.
        with tarfile.open(
            fileobj=limited,
            mode="r|",
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=_limited_header(limits.max_directory_bytes),
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
