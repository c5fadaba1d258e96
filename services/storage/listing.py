"""Pages of a listing, cut by S3's rules, for stores that can only go through keys in order."""

from collections.abc import Callable, Iterator

from services.storage.interface import LAST, Head, Page


def paginate(
    heads: Callable[[str], Iterator[Head]], prefix: str, after: str, delimiter: str, limit: int
) -> Page:
    """`heads(after)` gives the objects under `prefix` behind `after`, in the order of keys."""
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
            cursor = prefixes[-1] + LAST
            entries = heads(cursor)
        else:
            objects.append(head)
            cursor = head.key
    return Page(tuple(objects), tuple(prefixes), None)
