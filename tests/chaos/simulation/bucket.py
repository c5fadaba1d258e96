"""The simulated S3 server: versions, conditions, listings, and a journal of all changes."""

import hashlib
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Literal, NamedTuple

from chaos.simulation.process import START
from chaos.simulation.world import World

_LAST = "\U0010ffff"  # sorts behind every character of a key


class Version(NamedTuple):
    """The object under a key."""

    body: bytes
    etag: str
    last_modified: datetime
    """In whole seconds, as S3 has it, by a clock that does not jump."""


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """One change, at the virtual time at which it became visible to all."""

    time: float
    request: int
    process: str
    kind: Literal["put", "delete"]
    key: str
    body: bytes
    etag: str
    previous_etag: str | None
    """None if the key had no object."""


class ErrorResponse(NamedTuple):
    """An error in the server's words."""

    status: int
    code: str


NO_SUCH_KEY = ErrorResponse(404, "NoSuchKey")
PRECONDITION_FAILED = ErrorResponse(412, "PreconditionFailed")


class ListingPage(NamedTuple):
    """One page of keys and common prefixes."""

    objects: list[tuple[str, Version]]
    prefixes: list[str]
    truncated: bool


class Bucket:
    """The server. Every method acts at one instant. ETags are MD5: equal bytes, equal ETags."""

    def __init__(self, world: World, *, offset: float = 0.0) -> None:
        """Create an empty bucket whose server's clock is `offset` seconds ahead of virtual time.

        The server's time of day jumps with the world's. Ages do not, as in a directory store: the
        times of objects jump along.
        """
        self.journal: list[AppliedChange] = []
        self.positions: list[int] = []
        """For each request: the length of the journal when it was last served; -1 if never."""
        self.world = world
        self._offset = offset
        self._versions: dict[str, Version] = {}
        self._keys: list[str] = []
        self._second: tuple[int, int] | None = None
        self._date = ""
        self._time = START

    def number(self) -> int:
        """Return the number of a new request."""
        self.positions.append(-1)
        return len(self.positions) - 1

    def date(self) -> str:
        """Return the server's time as in the header Date."""
        self._tick()
        return self._date

    def last_modified(self, version: Version) -> datetime:
        """Return the time of a version by the server's time of day."""
        return version.last_modified + timedelta(seconds=self.world.jumped_s)

    def get(self, key: str) -> Version | None:
        return self._versions.get(key)

    def put(
        self,
        request: int,
        process: str,
        key: str,
        body: bytes,
        if_match: str | None,
        if_none_match: str | None,
    ) -> Version | ErrorResponse:
        there = self._versions.get(key)
        if if_none_match == "*" and there:
            return PRECONDITION_FAILED
        if if_match is not None and (error := _unmatched(there, if_match)):
            return error
        self._tick()
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        self._versions[key] = version = Version(body, etag, self._time)
        if there is None:
            insort(self._keys, key)
        previous = there.etag if there else None
        self.journal.append(
            AppliedChange(self.world.now, request, process, "put", key, body, etag, previous)
        )
        return version

    def delete(
        self, request: int, process: str, key: str, if_match: str | None
    ) -> ErrorResponse | None:
        there = self._versions.get(key)
        if if_match is not None and (error := _unmatched(there, if_match)):
            return error
        if there:
            del self._versions[key]
            del self._keys[bisect_left(self._keys, key)]
            self.journal.append(
                AppliedChange(self.world.now, request, process, "delete", key, b"", "", there.etag)
            )
        return None

    def page(self, prefix: str, after: str, delimiter: str, limit: int) -> ListingPage:
        keys, versions = self._keys, self._versions
        place = max(bisect_right(keys, after), bisect_left(keys, prefix))
        end = bisect_left(keys, prefix + _LAST) if prefix else len(keys)
        if not delimiter:
            page = keys[place : min(place + limit, end)]
            return ListingPage([(key, versions[key]) for key in page], [], place + limit < end)
        objects: list[tuple[str, Version]] = []
        prefixes: list[str] = []
        while place < end:
            if len(objects) + len(prefixes) == limit:
                return ListingPage(objects, prefixes, True)
            key = keys[place]
            first, found, _ = key[len(prefix) :].partition(delimiter)
            if found:
                prefixes.append(prefix + first + delimiter)
                place = bisect_left(keys, prefixes[-1] + _LAST)
            else:
                objects.append((key, versions[key]))
                place += 1
        return ListingPage(objects, prefixes, False)

    def keys(self, prefix: str = "") -> list[str]:
        """Return all keys with this prefix, in order."""
        return [key for key in self._keys if key.startswith(prefix)]

    def _tick(self) -> None:
        # Most requests are in the same second: formatting a date costs more than the rest.
        second = int((self.world.now + self._offset) // 1)
        jumped_s = self.world.jumped_s
        if (second, jumped_s) != self._second:
            self._second = second, jumped_s
            self._time = START + timedelta(seconds=second)
            self._date = format_datetime(self._time + timedelta(seconds=jumped_s), usegmt=True)


def _unmatched(there: Version | None, etag: str) -> ErrorResponse | None:
    if there is None:
        return NO_SUCH_KEY
    return None if there.etag == etag else PRECONDITION_FAILED
