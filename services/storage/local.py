"""What the stores of one machine share: no presigned forms, and pagination by S3's rules."""

from collections.abc import Callable, Iterator
from typing import Self

from services.storage.interface import LAST, Head, Page, PresignedPost, Retention


class LocalStore:
    """The methods that are alike in memory and in a directory, which have no server to ask."""

    def presigned_post(
        self, key: str, *, max_bytes: int, expires_s: int, sha256: str = ""
    ) -> PresignedPost | None:
        return None

    def presigned_get(
        self, key: str, *, expires_s: int, filename: str = "", media_type: str = ""
    ) -> str | None:
        return None

    def retention(self) -> Retention:
        return Retention(versioning="off", object_lock=False)

    def purge_versions(self, prefix: str) -> int:
        return 0

    def for_leases(self) -> Self:
        return self


def paginate(
    heads: Callable[[str], Iterator[Head]], prefix: str, after: str, delimiter: str, limit: int
) -> Page:
    """Return one page of a listing.

    Args:
        heads: Yields the objects below `prefix` that sort behind its argument, in order.
        prefix: What the keys begin with.
        after: The page begins behind this key.
        delimiter: Groups keys by what stands before it; empty for no groups.
        limit: The number of objects and common prefixes on the page, at most.
    """
    objects: list[Head] = []
    prefixes: list[str] = []
    cursor = after
    entries = heads(cursor)
    while (head := next(entries, None)) is not None:
        if len(objects) + len(prefixes) == limit:
            return Page(tuple(objects), tuple(prefixes), cursor)
        first, found, _ = head.key[len(prefix) :].partition(delimiter or LAST)
        if found:
            prefixes.append(prefix + first + delimiter)
            # Continue behind all keys of the group, without iterating over them.
            cursor = prefixes[-1] + LAST
            entries = heads(cursor)
        else:
            objects.append(head)
            cursor = head.key
    return Page(tuple(objects), tuple(prefixes), None)
