"""The interface of object stores, and exactly what the ledger may rely on.

A store keeps whole objects: bytes under a key, each version with an ETag. Reads see the latest
write that has returned, and so do listings. One version follows another in one order for all.

**ETags are compared, never interpreted.** In memory and in a directory every write has an ETag of
its own. On S3 equal bytes have equal ETags, so an expected ETag matches again once the same bytes
are back (A, B, A). A caller that relies on `replace` puts a
version and a nonce into the bytes (this prevents the ABA problem).

**A lost answer.** A request may be applied although its answer is lost, and is then sent again, by
us or by a proxy. The repeated write meets the first one, and fails with 412. `create` and `replace`
therefore read the object back after every 412, and compare bytes:

- They return only if a version with these bytes was written on the given condition. With a nonce in
  the bytes, no other writer can have written it.
- PreconditionFailedError, and NotFoundError of `replace`, mean that another version, or none, was
  there at the end. If an answer was lost *and* another writer replaced or deleted the object at
  once, ours may have been there in between.
- OutcomeUnknownError means that neither is known: read the object, and decide by its bytes.
- A request that was given up may still arrive much later. A late `create` succeeds if the object
  was deleted in the meantime. Where that must not happen, leave a tombstone instead of deleting.

**The clock** is the store's, never the caller's: `Head.date` and `Head.last_modified` are both read
from it, so that an age is right however wrong a host's clock is. On S3 both are whole seconds, so
that an age is off by up to a second.

**Keys and ranges** are restricted to what means the same on S3 and in a directory.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Literal, Protocol

from services.errors import InvalidKeyError, InvalidRangeError


@dataclass(frozen=True, slots=True)
class Head:
    """A version of an object, without its bytes."""

    key: str
    size: int
    """Bytes of the whole object."""
    etag: str
    """The id of this version, for `replace` and `delete_if`."""
    last_modified: datetime
    """When it was written, in UTC by the store's clock."""
    date: datetime
    """When the store sent this answer, in UTC by the same clock."""

    @property
    def age(self) -> timedelta:
        """Return how old the version was when the store answered; never negative."""
        return max(self.date - self.last_modified, timedelta(0))


@dataclass(frozen=True, slots=True)
class Object:
    """A version of an object, with its bytes or the requested range of them."""

    head: Head
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing, in the order of keys by their UTF-8 bytes."""

    objects: tuple[Head, ...]
    prefixes: tuple[str, ...]
    """The common prefixes of keys if there is a delimiter, each once, delimiter included."""
    next: str | None
    """`after` of the next page; None on the last one."""


@dataclass(frozen=True, slots=True)
class PresignedPost:
    """A form that uploads one object without credentials, as multipart/form-data."""

    url: str
    fields: Mapping[str, str]
    """Form fields. All have to be sent, before the field `file` with the bytes."""


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention of a store: what it keeps of deleted and overwritten objects."""

    versioning: Literal["off", "enabled", "suspended", "unknown"]
    object_lock: bool | None
    """Whether versions can be locked against deletion; None if the store does not tell."""


class Store(Protocol):
    """Objects under keys. Safe to use from many threads; each process opens its own.

    Keys are as in `check_key`. Every method can raise InvalidKeyError, AccessDeniedError and
    UnavailableError, and every write OutcomeUnknownError. A call begins its last request within the
    store's deadline; a write that has to be read back may take twice as long.
    """

    @property
    def url(self) -> str:
        """Return the URL that the store was opened with."""
        ...

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        """Return the object, or at most `length` bytes of it from byte `start` on.

        Raises:
            NotFoundError: There is no object.
            InvalidRangeError: The range begins at or beyond the end. Reading all of an empty object
                is not a range.
        """
        ...

    def head(self, key: str) -> Head:
        """Return the object without its bytes, or raise NotFoundError."""
        ...

    def create(self, key: str, body: bytes) -> str:
        """Write an object where there is none, and return its ETag. Of many callers one succeeds.

        Raises:
            AlreadyExistsError: There is an object.
        """
        ...

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        """Write a version on top of the one with the ETag `expected`, and return the new ETag.

        This is compare-and-swap: of many callers that expect the same version, one succeeds.

        Raises:
            PreconditionFailedError: There is another version.
            NotFoundError: There is no object.
        """
        ...

    def put(self, key: str, body: bytes | BinaryIO) -> str:
        """Write without a condition, and return the ETag.

        A file is read from its start, piece by piece, so that its bytes are never all in memory.

        Only for an object with one writer, where an old version would do no harm: after a lost
        answer, an earlier write may arrive late and overwrite a later one.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""
        ...

    def delete_if(self, key: str, *, expected: str) -> None:
        """Delete the version with the ETag `expected`, if there is an object.

        It must not decide a race: some S3 servers compare first and delete then, so that a version
        written in between is lost (`probe.Findings.atomic_deletion`). Where others may write,
        `replace` the object with a tombstone.

        Raises:
            PreconditionFailedError: There is another version.
        """
        ...

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        """Return at most `limit` objects whose keys begin with `prefix` and sort behind `after`.

        With the delimiter "/", keys that contain it behind the prefix are grouped into common
        prefixes. A page counts objects and prefixes together. `after` is any key, or `Page.next`.
        """
        ...

    def now(self) -> datetime:
        """Return the time of the store's clock, in UTC."""
        ...

    def presigned_post(
        self, key: str, *, max_bytes: int, expires_s: int, sha256: str = ""
    ) -> PresignedPost | None:
        """Return a form that uploads at most `max_bytes` to `key` within `expires_s` seconds.

        The store refuses more bytes; uploading again overwrites. With `sha256`, a digest in
        hexadecimal, the form takes exactly `max_bytes` with this digest; a server that knows no
        checksums checks the size alone. Returns None if this store cannot
        presign: the caller then has to pass the bytes on.
        """
        ...

    def presigned_get(
        self, key: str, *, expires_s: int, filename: str = "", media_type: str = ""
    ) -> str | None:
        """Return a URL at which anyone can read `key` for `expires_s` seconds, in any version.

        Args:
            key: The object.
            expires_s: How long the URL is valid.
            filename: The name under which a browser saves it.
            media_type: The Content-Type of the response.

        Returns None if this store cannot presign: the caller then has to pass the bytes on.
        """
        ...

    def retention(self) -> Retention:
        """Return what the store keeps of deleted and overwritten objects."""
        ...

    def purge_versions(self, prefix: str) -> int:
        """Erase all versions below `prefix` that are not current, and return their number.

        Stores without versions keep none. A version that is locked stays, and raises
        AccessDeniedError.
        """
        ...

    def for_leases(self) -> "Store":
        """Return the same store with connections of its own and a short deadline.

        No bulk transfer then delays the renewal of a lease.
        """
        ...


MAX_KEY_BYTES = 1024
"""The length of a key in UTF-8, limited by S3."""

MAX_PAGE = 1000
"""Entries on one page of a listing, limited by S3."""

LAST = "\U0010ffff"
"""A character that sorts behind every character that keys may have."""


_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f{LAST}]")


def check_key(key: str) -> None:
    """Raise InvalidKeyError unless `key` is valid.

    A key consists of parts joined by "/", none of them empty, "." or "..", without control
    characters, 1 to 1024 bytes of UTF-8 in all.
    """
    _check_text("key", key)
    if not key or any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidKeyError(
            f'key {key!r} has an empty part, "." or "..": give parts joined by single slashes'
        )


def check_listing(prefix: str, after: str, limit: int) -> None:
    """Raise InvalidKeyError unless keys can begin with `prefix`, and `limit` is 1 to 1000."""
    _check_text("prefix", prefix)
    _check_text("cursor", after.removesuffix(LAST))
    if any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        raise InvalidKeyError(
            f'no key begins with {prefix!r}: it has an empty part, "." or ".."; leave it out'
        )
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidKeyError(f"a page cannot have {limit} entries: give 1 to {MAX_PAGE}")


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


def is_range(start: int, length: int | None) -> bool:
    """Return whether this is a range, rather than the whole object; raise InvalidRangeError."""
    if start < 0 or (length is not None and length < 1):
        raise InvalidRangeError(
            f"there is no range of {length} bytes from {start} on: start at 0 or later, and read "
            "1 byte or more, or None for all that follow"
        )
    return start > 0 or length is not None


def check_range(key: str, size: int, start: int, length: int | None) -> None:
    """Raise InvalidRangeError unless an object of `size` bytes has a byte in this range."""
    if is_range(start, length) and start >= size:
        raise beyond(key, start)


def beyond(key: str, start: int) -> InvalidRangeError:
    """Return the error of a range that begins beyond the end."""
    return InvalidRangeError(f"{key!r} has no byte {start}: it ends before; ask for its size first")
