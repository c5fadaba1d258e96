"""Whether a file system does what a directory store is built on: tried out, not looked up.

Where a key lies in a directory, and the way back.

A key's folder has the name of its last part and `=`; the parts before are folders above it. Names
are percent-encoded but for lower-case letters, digits, and `._-`, so that file systems which fold
case or normalise Unicode keep keys apart. A part of 64 bytes or more is cut into pieces of 64, all
but the last with `+`, because a file name has at most 255 bytes. No piece is empty; an empty rest
is `%`.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from services.errors import StoreRefusedError
from services.storage.directory_versions import sync_folder

_PIECE = 64
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")


class Entry(NamedTuple):
    """A key, and the folder that has its versions."""

    key: str
    folder: Path


def folder_of(root: Path, key: str) -> Path:
    *above, last = key.split("/")
    pieces = [piece for part in above for piece in _pieces(part)]
    return root.joinpath(*pieces, *_pieces(last)[:-1], f"{_pieces(last)[-1]}=")


def walk(root: Path, prefix: str, after: str) -> Iterator[Entry]:
    """Keys that begin with `prefix` and sort behind `after`, in the order of their UTF-8 bytes."""
    above = prefix.split("/")[:-1]
    start = root.joinpath(*(piece for part in above for piece in _pieces(part)))
    text = "".join(f"{part}/" for part in above)
    return _walk(start, text.encode(), prefix.encode(), after.encode())


def _walk(folder: Path, text: bytes, prefix: bytes, after: bytes) -> Iterator[Entry]:
    """`text` is what the keys below `folder` begin with."""
    below: list[tuple[bytes, str]] = []
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith("="):
            here = text + _decoded(name[:-1])
            if here.startswith(prefix) and here > after:
                below.append((here, name))
        else:
            # With its slash a folder sorts among its neighbours as all that lies below it does.
            here = text + (_decoded(name[:-1]) if name.endswith("+") else _decoded(name) + b"/")
            fits = here.startswith(prefix) or prefix.startswith(here)
            if fits and (here > after or after.startswith(here)):
                below.append((here, name))
    for here, name in sorted(below):
        if name.endswith("="):
            yield Entry(here.decode(), folder / name)
        else:
            yield from _walk(folder / name, here, prefix, after)


def _pieces(part: str) -> list[str]:
    rest = part.encode()
    pieces: list[str] = []
    while len(rest) >= _PIECE:
        pieces.append(_encoded(rest[:_PIECE]) + "+")
        rest = rest[_PIECE:]
    return [*pieces, _encoded(rest) or "%"]


def _encoded(piece: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in piece)


def _decoded(name: str) -> bytes:
    first, *others = name.split("%")
    return first.encode() + b"".join(
        bytes.fromhex(other[:2]) + other[2:].encode() for other in others
    )


_REMOTE = ("9p", "afs", "ceph", "cifs", "fuse.", "gfs2", "glusterfs", "lustre", "nfs", "smb")
"""Beginnings of kinds of file systems that several hosts can write to, or that pass for local."""

_MOUNTS = Path("/proc/self/mountinfo")

_CLOCK_TOLERANCE = 2.0
"""Seconds between this host's clock and the times of new files. A local one is milliseconds off."""


def check_filesystem(folder: Path, url: str) -> None:
    """Try out links, modes and syncing in `folder`, which is left as it was.

    Raises: StoreRefusedError, which names what is missing.
    """
    if kind := _remote(folder):
        raise StoreRefusedError(
            f"{url}: refused: it is on {kind}, where another host can see names late; a directory "
            "store is for one host: give a folder of a local disk, or an S3 bucket"
        )
    name = folder / secrets.token_hex(16)
    first, second = name.with_suffix(".1"), name.with_suffix(".2")
    try:
        if missing := _missing(first, second):
            raise StoreRefusedError(
                f"{url}: refused: its file system {missing}; give a folder of a local disk, or an "
                "S3 bucket"
            )
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _missing(first: Path, second: Path) -> str:
    """What the file system cannot do; empty if nothing is missing."""
    doing = "writes no files"
    try:
        first.write_bytes(b"probe")
        if abs(first.stat().st_mtime - time.time()) > _CLOCK_TOLERANCE:
            return "has another clock than this host"
        doing = "makes no hard links (link)"
        os.link(first, second)
        doing = "lets a link replace a file"
        try:
            os.link(first, second)
            return doing
        except FileExistsError:
            pass
        doing = "keeps no modes of files (chmod)"
        second.chmod(0o200)
        if first.stat().st_mode & 0o777 != 0o200:
            return doing
        second.unlink()
        doing = "makes no symbolic links (symlink)"
        second.symlink_to("deleted")
        doing = "does not put folders on disk (fsync)"
        sync_folder(first.parent)
    except OSError as error:
        return f"{doing}: {error.strerror}"
    return ""


def _remote(folder: Path) -> str:
    """Kind of the file system that `folder` is on, if it is one of several hosts; else empty."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return ""
    kinds = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in lines}
    places = (str(place) for place in (folder.resolve(), *folder.resolve().parents))
    kind = next((kinds[place] for place in places if place in kinds), "")
    return kind if kind.startswith(_REMOTE) else ""
