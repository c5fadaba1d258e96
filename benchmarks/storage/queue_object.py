"""The simpler queue on object storage, the alternative in `ledger`: one object with all items.

Every worker swaps the object for one without the item that it claims, so claims are strictly in
order and strictly one after the other.
"""

import json
import secrets

from services.errors import PreconditionFailedError
from services.storage.interface import Store


class QueueObject:
    """A queue of items 0 to `count` - 1."""

    def __init__(self, store: Store, key: str, count: int) -> None:
        self._store = store
        self._key = key
        store.put(key, json.dumps({"nonce": "", "waiting": list(range(count))}).encode())

    def claim(self) -> bool:
        """Claim one item; return False if another worker was quicker, then try again."""
        current = self._store.read(self._key)
        waiting = json.loads(current.body)["waiting"]
        body = json.dumps({"nonce": secrets.token_hex(8), "waiting": waiting[1:]}).encode()
        try:
            self._store.replace(self._key, body, expected=current.head.etag)
        except PreconditionFailedError:
            return False
        return True
