"""What the ledger needs of a store, and exactly what it may rely on.

A store keeps whole objects: bytes under a key, each version with an ETag. Reads see the latest
write that has returned, and so do listings. One version follows another in one order for all.

**ETags are compared, never interpreted.** In memory and in a directory every write has an ETag of
its own. On S3 equal bytes have equal ETags, so an expected ETag matches again once the same bytes
are back (A, B, A). Who relies on `replace` puts a version and a nonce into the bytes.

**A lost answer.** A request may be applied though its answer never comes, and is then sent again,
by us or by a proxy. `create` and `replace` therefore read back where the store says that another
version stands there, and compare bytes:

- They return only if a version with these bytes was written on the condition that was asked for.
  With a nonce in the bytes, nobody else can have written it.
- PreconditionFailedError, and NotFoundError of `replace`, say that another version stood there at
  the end, or none. If an answer was lost *and* others wrote on top or deleted it at once, ours may
  have been there in between, but is no longer.
- OutcomeUnknownError says that neither is known: read, and go by what stands there.
- A request that was given up may still arrive, much later: a `create` finds nothing in its way
  where the object was deleted meanwhile. So where it matters that nothing stands there, leave a
  tombstone, and do not delete.

**The clock** is the store's, never the caller's: `Head.date` and `Head.last_modified` are both read
from it. On S3 both are whole seconds, so an age is off by up to a second.

Which keys all stores take: those that mean the same on S3 and in a directory.

Ranges of bytes, by S3's rules.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from services.errors import InvalidKeyError, InvalidRangeError


@dataclass(frozen=True, slots=True)
class Head:
    """One version of an object, without its bytes."""

    key: str
    size: int
    """Bytes of the whole object."""
    etag: str
    """Names this version, for `replace` and `delete_if`."""
    last_modified: datetime
    """When it was written, in UTC by the store's clock."""
    date: datetime
    """When the store said all this, in UTC by the same clock."""

    @property
    def age(self) -> timedelta:
        """How long ago it was written when the store answered; never negative."""
        return max(self.date - self.last_modified, timedelta(0))


@dataclass(frozen=True, slots=True)
class Object:
    """One version of an object, with its bytes or the range of them that was asked for."""

    head: Head
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in the order of keys by their UTF-8 bytes."""

    objects: tuple[Head, ...]
    prefixes: tuple[str, ...]
    """With a delimiter: what the keys behind it have in common, each once, delimiter included."""
    next: str | None
    """`after` of the next page; None: this was the last one."""


@dataclass(frozen=True, slots=True)
class PresignedPost:
    """How to upload one object without credentials: a form, sent as multipart/form-data."""

    url: str
    fields: Mapping[str, str]
    """Form fields, all to be sent, before the field `file` with the bytes."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What a store keeps of what was deleted or overwritten."""

    versioning: Literal["off", "enabled", "suspended", "unknown"]
    object_lock: bool | None
    """Whether versions can be locked against deletion; None: the store does not say."""


class Store(Protocol):
    """Objects under keys. Safe to use from many threads; each process opens its own.

    Keys are as in `keys.check_key`. Every method can raise InvalidKeyError, AccessDeniedError and
    UnavailableError, each write OutcomeUnknownError. A call sends its last request within the
    store's deadline; one that has to look at what stands there may take twice as long.
    """

    @property
    def url(self) -> str:
        """What the store was opened by."""
        ...

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        """The object, or `length` bytes from byte `start` on, fewer where it ends earlier.

        Raises: NotFoundError. InvalidRangeError if a range was asked for that begins at or beyond
        the end; all of an empty object is no range.
        """
        ...

    def head(self, key: str) -> Head:
        """The object without its bytes. Raises: NotFoundError."""
        ...

    def create(self, key: str, body: bytes) -> str:
        """Write an object where there is none, and return its ETag: of many callers one succeeds.

        Raises: AlreadyExistsError.
        """
        ...

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        """Write a version on top of the one with the ETag `expected`, and return the new ETag.

        Of many callers who expect the same version, one succeeds.

        Raises: PreconditionFailedError if another version stands there; NotFoundError if none.
        """
        ...

    def put(self, key: str, body: bytes) -> str:
        """Write without a condition, and return the ETag.

        Only for bytes with one writer, none of whose versions would be wrong: after a lost answer
        an earlier write may arrive late and overwrite a later one.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete the object, if there is one."""
        ...

    def delete_if(self, key: str, *, expected: str) -> None:
        """Delete the version with the ETag `expected`; fine, too, if no object is there.

        Not the way to decide a race: some S3 servers look, then delete, so that a version written
        at the same moment can be lost (`probe.Findings.atomic_deletion`). Where others may write,
        `replace` with a body that says deleted, then delete that.

        Raises: PreconditionFailedError if another version stands there.
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
        """Objects whose keys begin with `prefix` and sort behind `after`, at most `limit`.

        With the delimiter "/", keys that have one behind the prefix are given as common prefixes.
        A page counts objects and prefixes together. `after` is any key, or `Page.next`.
        """
        ...

    def now(self) -> datetime:
        """The store's clock, in UTC."""
        ...

    def presigned_post(self, key: str, *, max_bytes: int, expires_s: int) -> PresignedPost | None:
        """Leave to upload to `key` for so many seconds, at most `max_bytes`; the store refuses
        more. Uploading again overwrites. None: this store cannot, so pass the bytes on.
        """
        ...

    def presigned_get(
        self, key: str, *, expires_s: int, filename: str = "", media_type: str = ""
    ) -> str | None:
        """A URL that anyone may read `key` at for so many seconds, whatever it will be then.

        A file name is what a browser saves it as, a media type what it is said to be. None: this
        store cannot, so pass the bytes on.
        """
        ...

    def retention(self) -> Retention:
        """What it keeps of deleted and overwritten objects."""
        ...

    def for_leases(self) -> "Store":
        """The same objects over connections and with a deadline of its own, so that no bulk
        transfer delays a lease.
        """
        ...


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


def is_range(start: int, length: int | None) -> bool:
    """Whether less than the whole object was asked for. Raises: InvalidRangeError."""
    if start < 0 or (length is not None and length < 1):
        raise InvalidRangeError(
            f"a range of {length} bytes from {start} was asked for: start at 0 or later, and take "
            "1 byte or more, or None for all that follow"
        )
    return start > 0 or length is not None


def check_range(key: str, size: int, start: int, length: int | None) -> None:
    """Raises: InvalidRangeError unless an object of `size` bytes has a byte in this range."""
    if is_range(start, length) and start >= size:
        raise beyond(key, start)


def beyond(key: str, start: int) -> InvalidRangeError:
    return InvalidRangeError(f"{key!r} has no byte {start}: it ends before; ask for its size first")
