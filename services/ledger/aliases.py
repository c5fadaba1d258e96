"""Aliases: the index from a client's own id of a subject to the tokens learned of it.

Each entry is written before its token is, so that no token is missed. A token that an entry names
may therefore not exist yet, or no more: the reader finds out.
"""

import hashlib
from collections.abc import Iterator

from services.ledger.keys import tenant_folder
from services.storage.interface import Store


def add(store: Store, tenant: str, alias: str, token: str) -> None:
    """Add a token to an alias."""
    store.put(f"{_folder(tenant, alias)}{token}", b"")


def find_tokens(store: Store, tenant: str, alias: str, after: str = "") -> Iterator[str]:
    """Yield the ids of an alias's tokens behind the id `after`, those of the newest job first."""
    prefix = _folder(tenant, alias)
    cursor: str | None = f"{prefix}{after}" if after else ""
    while cursor is not None:
        page = store.list(prefix, after=cursor)
        yield from (head.key[len(prefix) :] for head in page.objects)
        cursor = page.next


def _folder(tenant: str, alias: str) -> str:
    return f"{tenant_folder(tenant)}aliases/{hashlib.sha256(alias.encode()).hexdigest()}/"
