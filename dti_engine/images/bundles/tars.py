"""The entries of a tar file, gzipped or not, read in one pass from begin to end."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dti_engine.errors import InvalidBundleError
from dti_engine.images.bundles.members import DAMAGE, ArchiveMember, BundleLimits

_GZIP = b"\x1f\x8b"
_MAX_EMPTY = 3  # reads at the end of the file; a good archive needs one


class _Counted(io.BufferedIOBase):
    """A file that gives no more than so many bytes, headers and padding of a tar included."""

    def __init__(self, file: gzip.GzipFile | IO[bytes], max_bytes: int) -> None:
        self._file, self._left, self._max_bytes = file, max_bytes, max_bytes
        self._num_empty = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0  # a stream of tarfile reads by the block
        data = self._file.read(min(size, self._left + 1))
        self._left -= len(data)
        # To skip an entry of a declared 2**80 bytes, tarfile would read on and on at the end.
        self._num_empty += not data
        if self._num_empty > _MAX_EMPTY:
            raise EOFError("it ends before its last entry does")
        if self._left < 0:
            raise InvalidBundleError(
                f"unpacks to more than {self._max_bytes / 1e6:g} MB; pack fewer or smaller files"
            )
        return data


def entries(path: Path, limits: BundleLimits) -> Iterator[ArchiveMember]:
    """All entries, in their order; each must be read before the next one is asked for.

    Raises: InvalidBundleError if the file as a whole is refused, or from there on.
    """
    with path.open("rb") as file:
        is_gzipped = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        plain = gzip.GzipFile(fileobj=file) if is_gzipped else file
        # A header or the padding of an entry is at most twice its 512 bytes.
        overhead = (limits.max_entries + 20) * 2048
        counted = _Counted(plain, limits.max_unpacked_bytes + overhead)
        try:
            # A stream never seeks, so no header can send the reader backwards, into a loop.
            with tarfile.open(
                fileobj=counted, mode="r|", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                for member in archive:
                    yield _entry(archive, member)
        except DAMAGE as error:
            raise InvalidBundleError(f"a damaged tar file ({error}); pack it anew") from error


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> ArchiveMember:
    def open_member() -> IO[bytes]:
        file = archive.extractfile(member)
        assert file  # None is for what has an obstacle
        return file

    return ArchiveMember(member.name, member.isdir(), _obstacle(member), member.size, open_member)


def _obstacle(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link; pack the file itself"
    if member.issparse():
        return "a sparse file; pack it in full"
    if not member.isreg() and not member.isdir():
        return "neither a file nor a folder; take it away"
    return None
