"""A store that remembers when each attempt was first claimed through it, and may fall asleep.

A process that stands still between its decision to write and the write is the worst there is: when
it wakes up, others have long held it for dead.
"""

import os
import random
import signal
import time
from typing import Any

from services.storage.interface import Store

_FATEFUL = ("/attempts/", "/results/")


class Watched:
    """All else is as the store does it."""

    def __init__(self, store: Store, nap: float = 0.0) -> None:
        """`nap` is the chance of SIGSTOP right before a claim, an end or a tombstone."""
        self._store = store
        self._nap = nap
        self.claims: dict[str, float] = {}
        """When each was asked for, by its key."""

    def create(self, key: str, body: bytes) -> str:
        if "/attempts/" in key:
            self.claims.setdefault(key, time.monotonic())
        self._perhaps_nap(key)
        return self._store.create(key, body)

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        self._perhaps_nap(key)
        return self._store.replace(key, body, expected=expected)

    def put(self, key: str, body: bytes) -> str:
        self._perhaps_nap(key)
        return self._store.put(key, body)

    def _perhaps_nap(self, key: str) -> None:
        if self._nap and any(name in key for name in _FATEFUL) and random.random() < self._nap:
            os.kill(os.getpid(), signal.SIGSTOP)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
