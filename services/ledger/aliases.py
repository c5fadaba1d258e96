"""Aliases: the index from a client's own id of a subject to the tokens learned of it.

Each entry is written before its token is, so that no token is missed. A token that an entry names
may therefore not exist yet, or no more: the reader finds out. An alias stands in the keys of its
entries as a pseudonym, since it may be the name of a person.
"""

from collections.abc import Callable, Iterator

from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.pseudonyms import find_pseudonym, pseudonym
from services.storage.interface import Store


def add(store: Store, tenant: str, alias: str, token: str) -> None:
    """Add a token to an alias."""
    store.put(f"{_folder(tenant)}{pseudonym(store, tenant, alias)}/{token}", b"")


def find_tokens(store: Store, tenant: str, alias: str, after: str = "") -> Iterator[str]:
    """Yield the ids of an alias's tokens behind the id `after`, those of the newest job first."""
    if (name := find_pseudonym(store, tenant, alias)) is None:
        return
    prefix = f"{_folder(tenant)}{name}/"
    cursor: str | None = f"{prefix}{after}" if after else ""
    while cursor is not None:
        page = store.list(prefix, after=cursor)
        yield from (head.key[len(prefix) :] for head in page.objects)
        cursor = page.next


def remove(store: Store, tenant: str, alias: str, token: str) -> None:
    """Remove a token from an alias."""
    if name := find_pseudonym(store, tenant, alias):
        store.delete(f"{_folder(tenant)}{name}/{token}")


def entries_of(
    ledger: Ledger, tenant: str, alias: str | None, has_token: Callable[[str], bool]
) -> list[str]:
    """Return the keys of the entries of an alias, and of the tokens for which `has_token` holds."""
    folder = _folder(tenant)
    name = None if alias is None else find_pseudonym(ledger.store, tenant, alias)
    found: list[str] = []
    for page in ledger.pages(folder):
        for head in page.objects:
            of, _, token = head.key.removeprefix(folder).partition("/")
            if of == name or has_token(token):
                found.append(head.key)
    return found


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}aliases/"
