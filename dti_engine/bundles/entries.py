"""What folders, zips and tars have in common: named entries, some of which cannot be taken."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,  # zipfile, at features that it lacks
    RecursionError,  # tarfile, at a long chain of extended headers
)
"""What the readers of the standard library raise at damaged or hostile archives."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a folder or archive, as it is named there."""

    name: str  # with surrogates where it was not valid UTF-8
    is_folder: bool
    obstacle: str | None  # why it is refused, whatever it is called
    declared_bytes: int
    open: Callable[[], IO[bytes]]  # only until the next entry is asked for


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, or worth saying, about an entry; or about the bundle, with an empty name."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name!r}: {self.reason}" if self.name else self.reason
