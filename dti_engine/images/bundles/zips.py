"""The entries of a zip file."""

import stat
import struct
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.members import DAMAGE, ArchiveMember, BundleLimits

_END = struct.Struct("<4s4H2LH")  # end of central directory record: APPNOTE 4.3.16
_MAX_COMMENT = 2**16 - 1
_LOCATOR_BYTES = 20  # APPNOTE 4.3.15
_ENCRYPTED, _UTF_8 = 0x1, 0x800  # general purpose bits: APPNOTE 4.4.4
# Python unpacks these by the piece. Others expand without bound at once, or ask for much memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def entries(path: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """All entries, in their order.

    Raises: InvalidBundleError if the file as a whole is refused.
    """
    _judge_end(path, limits)
    try:
        archive = zipfile.ZipFile(path)
    except UnicodeDecodeError as error:
        raise InvalidBundleError("a name in it is not valid UTF-8; pack it anew") from error
    except DAMAGE as error:
        raise InvalidBundleError(f"a damaged zip file ({error}); pack it anew") from error
    with archive:
        for info in archive.infolist():
            name, opener = _name(info), partial(archive.open, info)
            yield ArchiveMember(name, name.endswith("/"), _obstacle(info), info.file_size, opener)


def _judge_end(path: Path, limits: BundleLimits) -> None:
    """Refuse a zip by the record at its end, before zipfile reads its whole table of contents."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END.size - _MAX_COMMENT))
        tail = file.read()
    start = tail.rfind(b"PK\5\6")
    if start < 0 or start + _END.size > len(tail):
        raise InvalidBundleError("a damaged zip file: its end is missing; pack it anew")
    directory_bytes = _END.unpack_from(tail, start)[5]
    # Of a giant zip, the number is in another record, whose locator lies right before this one.
    is_zip64 = start >= _LOCATOR_BYTES and tail.startswith(b"PK\6\7", start - _LOCATOR_BYTES)
    if directory_bytes > limits.max_directory_bytes or is_zip64:
        raise InvalidBundleError(
            f"its table of contents is larger than {limits.max_directory_bytes / 1e6:g} MB, or of "
            "the form for giant zips (zip64); pack fewer files"
        )


def _name(info: zipfile.ZipInfo) -> str:
    """The name as stored. Some programs write UTF-8 and do not say so; zipfile reads cp437 then."""
    if info.flag_bits & _UTF_8:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode("utf-8", "surrogateescape")


def _obstacle(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link; pack the file itself"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "neither a file nor a folder; take it away"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; pack it without a password"
    if info.compress_type not in _METHODS:
        return "compressed by an unusual method; pack it by deflate, which is usual"
    return None
