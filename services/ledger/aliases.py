"""Which tokens a tenant has of a subject, by the client's own id of it: hints, one for each token,
written before the token is. What a hint names may not exist, or no more; whoever reads finds out.
"""

import hashlib
from collections.abc import Iterator

from services.ledger.keys import tenant_folder
from services.storage.interface import Store


def add(store: Store, tenant: str, alias: str, token: str) -> None:
    """Let a token be found, once there is one."""
    store.put(f"{_folder(tenant, alias)}{token}", b"")


def find_tokens(store: Store, tenant: str, alias: str, after: str = "") -> Iterator[str]:
    """Ids of the tokens of a subject, the newest job's first, from behind the id `after` on."""
    prefix = _folder(tenant, alias)
    start: str | None = f"{prefix}{after}" if after else ""
    while start is not None:
        page = store.list(prefix, after=start)
        yield from (head.key[len(prefix) :] for head in page.objects)
        start = page.next


def _folder(tenant: str, alias: str) -> str:
    return f"{tenant_folder(tenant)}aliases/{hashlib.sha256(alias.encode()).hexdigest()}/"
