"""Which keys all stores take: those that mean the same on S3 and in a directory."""

import re

from services.errors import InvalidKeyError

MAX_KEY_BYTES = 1024
"""S3's own limit, in UTF-8."""

MAX_PAGE = 1000
"""Entries on one page of a listing: S3's own limit."""

LAST = "\U0010ffff"
"""Sorts behind every character of a key, in which it is not allowed."""


_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f{LAST}]")


def check_key(key: str) -> None:
    """Raises: InvalidKeyError unless `key` is parts joined by "/", 1 to 1024 bytes of UTF-8 in all,
    no part empty, "." or "..", without control characters.
    """
    _check_text("key", key)
    if not key or any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidKeyError(
            f'key {key!r} has an empty part, "." or "..": give parts joined by single slashes'
        )


def check_listing(prefix: str, after: str, limit: int) -> None:
    """Raises: InvalidKeyError unless keys can begin with `prefix`, and `limit` is 1 to 1000."""
    _check_text("prefix", prefix)
    _check_text("cursor", after.removesuffix(LAST))
    if any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        raise InvalidKeyError(
            f'no key begins with {prefix!r}: it has an empty part, "." or ".."; leave it out'
        )
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidKeyError(f"a page of {limit} entries was asked for: ask for 1 to {MAX_PAGE}")


def _check_text(what: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidKeyError(f"{what} {text!r} is not Unicode: {error.reason}") from error
    if size > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"{what} {text[:40]!r}... has {size} bytes of UTF-8: at most {MAX_KEY_BYTES} are "
            "allowed; shorten it"
        )
    if _FORBIDDEN.search(text):
        raise InvalidKeyError(f"{what} {text!r} has a control character: leave it out")
