"""A store in a directory of one host, shared by its processes without locks.

    objects/    a folder for each key
    temporary/  files being written, and those of killed processes until they are swept
    clocks/     the store's clock, in a file for each boot of the host

`directory_versions` explains why it needs no locks, and `directory_clock` how ages stay right when
the host's time changes. All is readable for the store's owner alone, whatever the umask. A deleted
key keeps its folder for good: were its version numbers used again, a stale write could succeed.
"""

import os
import secrets
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal

from services.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    PreconditionFailedError,
    StoreFullError,
    UnavailableError,
    is_out_of_space,
)
from services.storage import directory_versions as versions
from services.storage.directory_clock import DirectoryClock
from services.storage.directory_paths import check_filesystem, folder_of, walk
from services.storage.directory_versions import Version, VersionSupersededError
from services.storage.interface import (
    Head,
    Object,
    Page,
    check_key,
    check_listing,
    check_range,
)
from services.storage.local import LocalStore, paginate

_ABANDONED_AFTER_S = 3600.0
"""Age of a temporary file after which its writer counts as killed. If it was only suspended, its
write fails as if the store had been unavailable.
"""


class DirectoryStore(LocalStore):
    """Objects below `root`. ETags are the numbers of versions, which never come back."""

    def __init__(self, root: Path) -> None:
        """Open the directory, which is made if it is missing, and sweep it.

        Raises:
            StoreRefusedError: The file system lacks what the store needs.
        """
        self._root = root.absolute()
        self._objects = self._root / "objects"
        self._temporary = self._root / "temporary"
        with _translating("opening", self.url):
            for folder in (self._root, self._objects, self._temporary):
                versions.make_folder(folder)
        check_filesystem(self._temporary, self.url)
        with _translating("opening", self.url):
            self._clock = DirectoryClock(self._root / "clocks")
        self._durable: set[Path] = set()
        """Folders above keys whose names are known to be on disk."""
        self.sweep()

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        folder = self._folder(key)
        with _translating("reading", key):
            while True:
                version = self._live(key)
                check_range(key, version.size, start, length)
                # Overwritten while it was being read: read the version that took its place.
                with suppress(VersionSupersededError):
                    body = versions.read(folder, version, start, length)
                    return Object(self._head(key, version), body)

    def head(self, key: str) -> Head:
        with _translating("looking at", key):
            return self._head(key, self._live(key))

    def create(self, key: str, body: bytes) -> str:
        folder = self._folder(key)
        with _translating("writing", key), ExitStack() as stack:
            file = None
            while (seen := versions.newest(folder)) is None or seen.deleted:
                # Written only now: most callers of a race find an object, and write nothing.
                file = file or stack.enter_context(self._file(body))
                if number := self._append(folder, seen, file):
                    return str(number)
        raise AlreadyExistsError(f"there is an object under {key!r} already: read it")

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        folder = self._folder(key)
        with _translating("writing", key):
            seen = self._expect(key, expected)
            with self._file(body) as file:
                if number := self._append(folder, seen, file):
                    return str(number)
            self._expect(key, expected)
        raise PreconditionFailedError(
            f"{key!r} was overwritten many times in the meantime: read it again"
        )

    def put(self, key: str, body: bytes | BinaryIO) -> str:
        folder = self._folder(key)
        with _translating("writing", key), self._file(body) as file:
            while True:
                if number := self._append(folder, versions.newest(folder), file):
                    return str(number)

    def delete(self, key: str) -> None:
        folder = self._folder(key)
        with _translating("deleting", key):
            while (seen := versions.newest(folder)) and not seen.deleted:
                self._append(folder, seen, None)
            if seen:
                # The process that deleted it may have been killed before it erased the bytes.
                versions.trim(folder, seen.number)

    def delete_if(self, key: str, *, expected: str) -> None:
        folder = self._folder(key)
        with _translating("deleting", key):
            while (seen := versions.newest(folder)) and not seen.deleted:
                self._append(folder, self._expect(key, expected), None)
            if seen:
                versions.trim(folder, seen.number)

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        check_listing(prefix, after, limit)

        def heads(after: str) -> Iterator[Head]:
            for key, folder in walk(self._objects, prefix, after):
                version = versions.newest(folder)
                if version and not version.deleted:
                    yield self._head(key, version)

        with _translating("listing", prefix):
            return paginate(heads, prefix, after, delimiter, limit)

    def now(self) -> datetime:
        return _utc(time.time())

    def sweep(self) -> None:
        """Remove temporary files of processes that were killed more than an hour ago."""
        with _translating("sweeping", self.url):
            for file in self._temporary.iterdir():
                # Another process may be sweeping as well.
                with suppress(FileNotFoundError):
                    if self._clock.age_s(_written_ns(file)) > _ABANDONED_AFTER_S:
                        file.unlink()

    def _folder(self, key: str) -> Path:
        check_key(key)
        return folder_of(self._objects, key)

    def _head(self, key: str, version: Version) -> Head:
        """Return the head of a version.

        Its times are those of the calendar, which the host may change. The difference between them
        is the version's age, which no such change touches.
        """
        date = _utc(time.time())
        age = timedelta(seconds=self._clock.age_s(version.modified_ns))
        return Head(key, version.size, str(version.number), date - age, date)

    def _live(self, key: str) -> Version:
        version = versions.newest(self._folder(key))
        if version is None or version.deleted:
            raise NotFoundError(f"there is no object under {key!r}")
        return version

    def _expect(self, key: str, etag: str) -> Version:
        stored = self._live(key)
        if str(stored.number) != etag:
            raise PreconditionFailedError(
                f"{key!r} is at {stored.number}, not at {etag} as expected: read it again"
            )
        return stored

    @contextmanager
    def _file(self, body: bytes | BinaryIO) -> Generator[Path]:
        """Provide a temporary file of these bytes on disk. A link made to it stays."""
        # The time stands in the name: while the file is written, the host sets its time.
        path = self._temporary / f"{self._clock.now_ns()}-{secrets.token_hex(16)}"
        try:
            with open(path, "xb", opener=versions.open_private) as file:
                if isinstance(body, bytes):
                    file.write(body)
                else:
                    body.seek(0)
                    shutil.copyfileobj(body, file)
                file.flush()
                modified_ns = self._clock.now_ns()
                os.utime(file.fileno(), ns=(modified_ns, modified_ns))
                os.fsync(file.fileno())
            yield path
        finally:
            # A file that cannot be removed is no failure of the write: a sweep removes it.
            with suppress(OSError):
                path.unlink()

    def _append(self, folder: Path, seen: Version | None, file: Path | None) -> int | None:
        if seen is None:
            self._make(folder)
        return versions.append(folder, seen, file)

    def _make(self, folder: Path) -> None:
        """Make a folder, and sync it to disk with all its parents, before its first version."""
        # A version in a folder whose own name is not on disk would be lost with the power, after
        # the write has returned.
        versions.make_folder(folder)
        above = folder.parents[: len(folder.relative_to(self._root).parts) - 1]
        for place in (*reversed(above), folder):
            if place not in self._durable:
                versions.sync_folder(place.parent)
        # Folders are never removed, so that syncing each of them once is enough.
        self._durable.update(above)


def _written_ns(file: Path) -> int:
    """Return when a temporary file was begun."""
    began, dash, _ = file.name.partition("-")
    # Earlier versions gave names without a time.
    return int(began) if dash and began.isdecimal() else file.lstat().st_mtime_ns


@contextmanager
def _translating(doing: str, name: str) -> Generator[None]:
    """Translate errors of the operating system."""
    try:
        yield
    except PermissionError as error:
        raise AccessDeniedError(f"{doing} {name!r}: {error.strerror}; see its owner") from error
    except OSError as error:
        if is_out_of_space(error):
            raise StoreFullError(
                f"{doing} {name!r}: {error.strerror}; nothing was changed: free space where the "
                "store is, and try again"
            ) from error
        raise UnavailableError(
            f"{doing} {name!r}: {error.strerror}; nothing was changed: repair it and try again"
        ) from error


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
