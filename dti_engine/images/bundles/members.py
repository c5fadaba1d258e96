"""Names of entries, which may come from anyone: what is refused, and what is passed over.

What a bundle may hold, what its decoding may take, and what is worth a warning.

What folders, zips and tars have in common: named entries, some of which cannot be taken.
"""

import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from dti_engine.images.decode import ImageLimits


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """All limits of a bundle. What is counted is what is read, whatever a header declares."""

    image: ImageLimits = field(default_factory=ImageLimits)

    max_archive_bytes: int = 500_000_000
    max_directory_bytes: int = 1_000_000  # a zip's table of contents, which is parsed as a whole
    max_entries: int = 1000  # of any kind, hidden ones included
    max_unpacked_bytes: int = 500_000_000
    max_description_bytes: int = 1_000_000
    max_images: int = 100
    max_decoded_megapixels: float = 400.0  # of all images; 3 bytes each stay in memory
    max_name_bytes: int = 255  # what file systems take
    max_depth: int = 8  # folders within folders

    # The largest image allowed takes 1.3 GB: its RGBA copies for transparency, and its bytes.
    decoder_memory_bytes: int = 2 * 2**30
    decoder_timeout_s: float = 20.0  # of one image; the largest takes about 3

    usual_images: int = 3  # fewer are a warning
    near_duplicate_bits: int = (
        6  # of 64 in which nearly identical images differ; real ones in 15 or more
    )
    max_aspect: float = 2.5  # longer side / shorter side


DEFAULT_LIMITS = BundleLimits()


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
class ArchiveMember:
    """One entry of a folder or archive, as it is named there."""

    name: str  # with surrogates where it was not valid UTF-8
    is_folder: bool
    obstacle: str | None  # why it is refused, whatever it is called
    declared_bytes: int
    open: Callable[[], IO[bytes]]  # only until the next entry is asked for


@dataclass(frozen=True, slots=True)
class BundleFinding:
    """Something wrong, or worth saying, about an entry; or about the bundle, with an empty name."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name!r}: {self.reason}" if self.name else self.reason


_LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})  # what systems leave, unasked
# Also those that turn the direction of writing, so that a name reads as another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_DRIVE = re.compile(r"[A-Za-z]:")


def normalized(name: str) -> str:
    """The name by which an entry is known: composed letters, no `./` before, no `/` after."""
    parts = unicodedata.normalize("NFC", name).rstrip("/").split("/")
    while len(parts) > 1 and parts[0] == ".":  # as tar writes them
        parts.pop(0)
    return "/".join(parts)


def collision_key(name: str) -> str:
    """Equal for names that mean one file on systems that do not tell case apart."""
    return unicodedata.normalize("NFC", name.casefold())


def printable(text: str) -> str:
    """The name, or what was said of it, with what no terminal should get written out."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def refusal(name: str, limits: BundleLimits) -> str | None:
    """What is wrong with a name as it stands in a folder or archive, or None."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    parts = normalized(name).split("/")
    if ".." in parts:
        return "its name leads out of the bundle; pack it without '..'"
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "its name is absolute; pack it by its name in the folder"
    if "\\" in name or _CONTROL.search(name) or "" in parts:
        return "its name has a backslash, a control character or an empty part; rename it"
    if size > limits.max_name_bytes or len(parts) > limits.max_depth:
        return (
            f"its name has more than {limits.max_name_bytes} bytes or {limits.max_depth} parts; "
            "shorten it"
        )
    return None


def is_ignored(name: str) -> bool:
    """Whether it is hidden, or litter, or within such a folder; `.` itself is the whole."""
    return any(part.startswith(".") or part in _LITTER for part in normalized(name).split("/"))
