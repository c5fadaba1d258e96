"""Members of a folder or archive, the rules for their names, and the limits of a bundle.

Names may come from anyone: a name that could mean a file elsewhere, another name or nothing at all
on some system is rejected; what systems leave behind is ignored.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import IO

from dti_engine.images.decode import ImageLimits


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """Limits of a bundle. What is read is counted; declared sizes are not trusted."""

    image: ImageLimits = field(default_factory=ImageLimits)

    max_archive_bytes: int = 500_000_000
    # A zip's central directory, or all extended headers of a tar: both are parsed as a whole.
    max_directory_bytes: int = 1_000_000
    max_entries: int = 1000  # of any kind, hidden ones included
    max_unpacked_bytes: int = 500_000_000
    max_description_bytes: int = 1_000_000
    max_images: int = 100
    max_decoded_megapixels: float = 400.0  # of all images; 3 bytes per pixel stay in memory
    max_name_bytes: int = 255  # the limit of most file systems
    max_depth: int = 8  # nested folders

    # The largest image allowed needs 1.3 GB: its RGBA copies for transparency, and its bytes.
    decoder_memory_bytes: int = 2 * 2**30
    decoder_timeout_s: float = 20.0  # per image; the largest takes about 3 s
    unpacking_memory_bytes: int = 2**29  # members are read in pieces, never as a whole
    unpacking_timeout_s: float = 60.0  # per archive; the largest takes about 5 s

    usual_images: int = 3  # fewer give a warning
    near_duplicate_bits: int = 6  # of 64 hash bits; different photos differ in 15 or more
    max_aspect: float = 2.5  # longer side / shorter side; more gives a warning


DEFAULT_LIMITS = BundleLimits()

MAX_TEXT = 300
"""Characters of a finding, or of any other text from the sandbox."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A member of a folder or archive, under its name there."""

    name: str  # with surrogates where it is not valid UTF-8
    is_folder: bool
    rejection: str | None  # why its content cannot be used, whatever its name
    declared_bytes: int
    open: Callable[[], IO[bytes] | BufferedIOBase]  # only until the next member is requested


@dataclass(frozen=True, slots=True)
class BundleFinding:
    """An error or warning about a member; about the bundle if the name is empty."""

    name: str
    reason: str

    def __post_init__(self) -> None:
        # Both may quote the bundle, which decides how long they would be.
        object.__setattr__(self, "name", _shortened(self.name))
        object.__setattr__(self, "reason", _shortened(self.reason))

    def __str__(self) -> str:
        shown = f"{_shortened(self.name, 100)!r}: " if self.name else ""
        return _shortened(shown + self.reason)


_SYSTEM_FILES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
# Includes the characters that change the direction of writing, so that a name reads as another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_DRIVE = re.compile(r"[A-Za-z]:")


def normalized(name: str) -> str:
    """Return the canonical name of a member: composed letters, no leading `./`, no trailing `/`."""
    parts = unicodedata.normalize("NFC", name).rstrip("/").split("/")
    while len(parts) > 1 and parts[0] == ".":  # as tar writes them
        parts.pop(0)
    return "/".join(parts)


def collision_key(name: str) -> str:
    """Return a key that is equal for names of one file on case-insensitive file systems."""
    # In this order, because `casefold` takes some composed letters apart.
    return unicodedata.normalize("NFC", name.casefold())


def printable(text: str) -> str:
    """Return the text with escapes for everything that could control a terminal."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _shortened(text: str, max_characters: int = MAX_TEXT) -> str:
    return text if len(text) <= max_characters else f"{text[: max_characters - 3]}..."


def brief(text: str) -> str:
    """Return what may be shown of a text that a stranger's bytes decide: printable and short."""
    return _shortened(printable(text[:MAX_TEXT]))


def name_error(name: str, limits: BundleLimits) -> str | None:
    """Return why a name, as stored in a folder or archive, is rejected; None if it is valid."""
    try:
        num_bytes = len(name.encode())
    # A surrogate stands for a byte that is not UTF-8, see `ArchiveMember.name`.
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    # The rules apply to the canonical form, in which a name is used from here on. What it hides,
    # such as `./../x`, must not pass by its spelling.
    parts = normalized(name).split("/")
    if ".." in parts:
        return "its name leads out of the bundle; pack it without '..'"
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "its name is absolute; pack it by its name in the folder"
    if "\\" in name or _CONTROL.search(name) or "" in parts:
        return "its name has a backslash, a control character or an empty part; rename it"
    if num_bytes > limits.max_name_bytes or len(parts) > limits.max_depth:
        return (
            f"its name has more than {limits.max_name_bytes} bytes or {limits.max_depth} parts; "
            "shorten it"
        )
    return None


def is_ignored(name: str) -> bool:
    """Return whether a member is hidden, a system file, or within such a folder."""
    parts = normalized(name).split("/")
    return any(part.startswith(".") or part in _SYSTEM_FILES for part in parts)
