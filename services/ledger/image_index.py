"""The index from the names that images were made with to the stored images.

A name is a token's id or an alias, as the request for the image gave it, and stands in keys as a
pseudonym. Each entry is written before its image is, so that none is missed: an image that an entry
names may not exist.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.pseudonyms import find_pseudonyms, pseudonym

_MAX_LISTINGS = 100
"""Above this number of names it is faster to list the whole index."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of the index."""

    key: str
    image: str


def add(ledger: Ledger, tenant: str, names: Collection[str], image: str) -> None:
    """Record that an image is made with these names."""
    for name in names:
        ledger.store.put(f"{_folder(tenant)}{pseudonym(ledger.store, tenant, name)}/{image}", b"")


def find(ledger: Ledger, tenant: str, names: Collection[str]) -> list[IndexEntry]:
    """Return the entries of images that were made with any of these names."""
    wanted = set(find_pseudonyms(ledger.store, tenant, names))
    if len(wanted) > _MAX_LISTINGS:
        return [entry for entry in entries(ledger, tenant) if entry.key.split("/")[-2] in wanted]
    prefixes = [f"{_folder(tenant)}{name}/" for name in sorted(wanted)]
    heads = [head for found in ledger.gather(ledger.heads, prefixes) for head in found]
    return [IndexEntry(head.key, head.key.rpartition("/")[2]) for head in heads]


def entries(ledger: Ledger, tenant: str) -> Iterator[IndexEntry]:
    """Yield all entries of a tenant."""
    for page in ledger.pages(_folder(tenant)):
        for head in page.objects:
            yield IndexEntry(head.key, head.key.rpartition("/")[2])


def images_folder(tenant: str) -> str:
    """Return the prefix of a tenant's stored images, which are called ID.png."""
    return f"{tenant_folder(tenant)}images/"


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}image-index/"
