"""The other way to queue on object storage: one object with all that waits, which every worker
swaps for one with an item less. Claims are strictly in order, and strictly one after the other.
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
        """Whether one was claimed; False: another worker was quicker, so try again."""
        there = self._store.read(self._key)
        waiting = json.loads(there.body)["waiting"]
        body = json.dumps({"nonce": secrets.token_hex(8), "waiting": waiting[1:]}).encode()
        try:
            self._store.replace(self._key, body, expected=there.head.etag)
        except PreconditionFailedError:
            return False
        return True
