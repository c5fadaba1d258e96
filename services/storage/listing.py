"""Pagination by S3's rules, for stores that can only iterate over their keys in order."""

from collections.abc import Callable, Iterator

from services.storage.interface import LAST, Head, Page


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
