"""A store that counts the calls of its methods."""

import threading
from collections import Counter
from typing import Any

from services.storage.interface import Store


class CountedStore:
    """Passes all calls on to `store` and counts them by name in `calls`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return self._store.url

    def for_leases(self) -> "CountedStore":
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                self.calls[name] += 1
            return method(*arguments, **named)

        return counted
