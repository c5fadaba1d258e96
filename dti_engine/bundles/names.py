"""Names of entries, which may come from anyone: what is refused, and what is passed over."""

import re
import unicodedata

from dti_engine.bundles.limits import BundleLimits

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


def is_passed_over(name: str) -> bool:
    """Whether it is hidden, or litter, or within such a folder; `.` itself is the whole."""
    return any(part.startswith(".") or part in _LITTER for part in normalized(name).split("/"))
