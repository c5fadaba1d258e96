"""Where a key lies in a directory, and the way back.

A key's folder has the name of its last part and `=`; the parts before are folders above it. Names
are percent-encoded but for lower-case letters, digits, and `._-`, so that file systems which fold
case or normalise Unicode keep keys apart. A part of 64 bytes or more is cut into pieces of 64, all
but the last with `+`, because a file name has at most 255 bytes. No piece is empty; an empty rest
is `%`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
