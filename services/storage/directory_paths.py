"""Paths of keys in a directory store, and a check that its file system can hold one.

A key's folder is named after the key's last part, followed by `=`; the parts before it are folders
above. Names are percent-encoded except for lower-case letters, digits, and `._-`, so that file
systems which fold case or normalise Unicode keep keys apart. A part of 64 bytes or more is cut into
pieces of 64, all but the last followed by `+`, because a file name has at most 255 bytes. An empty
rest is written `%`.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from services.errors import StoreRefusedError
from services.storage.directory_versions import sync_folder

_PIECE_BYTES = 64
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")


class Entry(NamedTuple):
    """A key, and the folder of its versions."""

    key: str
    folder: Path


def folder_of(root: Path, key: str) -> Path:
    """Return the folder of a key's versions."""
    *above, last = key.split("/")
    pieces = [piece for part in above for piece in _pieces(part)]
    return root.joinpath(*pieces, *_pieces(last)[:-1], f"{_pieces(last)[-1]}=")


def walk(root: Path, prefix: str, after: str) -> Iterator[Entry]:
    """Yield keys that begin with `prefix` and sort behind `after`, in the order of their bytes."""
    above = prefix.split("/")[:-1]
    start = root.joinpath(*(piece for part in above for piece in _pieces(part)))
    text = "".join(f"{part}/" for part in above)
    return _walk(start, text.encode(), prefix.encode(), after.encode())


def _walk(folder: Path, text: bytes, prefix: bytes, after: bytes) -> Iterator[Entry]:
    """Yield the keys below `folder`, all of which begin with `text`."""
    below: list[tuple[bytes, str]] = []
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith("="):
            key = text + _decoded(name[:-1])
            if key.startswith(prefix) and key > after:
                below.append((key, name))
        else:
            # With its slash, a folder sorts among its neighbours as all keys below it do.
            key = text + (_decoded(name[:-1]) if name.endswith("+") else _decoded(name) + b"/")
            matches = key.startswith(prefix) or prefix.startswith(key)
            if matches and (key > after or after.startswith(key)):
                below.append((key, name))
    for key, name in sorted(below):
        if name.endswith("="):
            yield Entry(key.decode(), folder / name)
        else:
            yield from _walk(folder / name, key, prefix, after)


def _pieces(part: str) -> list[str]:
    rest = part.encode()
    pieces: list[str] = []
    while len(rest) >= _PIECE_BYTES:
        pieces.append(_encoded(rest[:_PIECE_BYTES]) + "+")
        rest = rest[_PIECE_BYTES:]
    return [*pieces, _encoded(rest) or "%"]


def _encoded(piece: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in piece)


def _decoded(name: str) -> bytes:
    first, *others = name.split("%")
    return first.encode() + b"".join(
        bytes.fromhex(other[:2]) + other[2:].encode() for other in others
    )


_REMOTE = ("9p", "afs", "ceph", "cifs", "fuse.", "gfs2", "glusterfs", "lustre", "nfs", "smb")
"""Beginnings of the types of file systems that several hosts can write to."""

_MOUNTS = Path("/proc/self/mountinfo")

_TOLERANCE_NS = 1_000_000
"""Difference between the time that a file is given and the time that it then has."""


def check_filesystem(folder: Path, url: str) -> None:
    """Try out links, modes and syncing in `folder`, and leave it as it was.

    Trying is surer than looking up: what a mount promises and what it does can differ.

    Raises:
        StoreRefusedError: The file system lacks something; the error names it.
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
    """Return what the file system cannot do; empty if nothing is missing."""
    doing = "writes no files"
    try:
        first.write_bytes(b"probe")
        doing = "keeps no times of files (utime)"
        # The store gives each file its time, from which ages of leases follow.
        time_ns = first.stat().st_mtime_ns - 1_234_567_890
        os.utime(first, ns=(time_ns, time_ns))
        if abs(first.stat().st_mtime_ns - time_ns) > _TOLERANCE_NS:
            return doing
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
    """Return the type of the file system of `folder` if several hosts share it; else empty."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:  # This is not Linux.
        return ""
    # Of several mounts on one place, the last line is the one that is seen.
    kinds = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in lines}
    places = (str(place) for place in (folder.resolve(), *folder.resolve().parents))
    kind = next((kinds[place] for place in places if place in kinds), "")
    return kind if kind.startswith(_REMOTE) else ""
