"""A store wrapper that records when attempts are claimed, and may pause its process before a write.

A process that stops between its decision to write and the write is the worst case: when it
continues, others have declared it dead long ago.
"""

import os
import random
import signal
import time
from typing import Any

from services.storage.interface import Store

_DECISIVE_KEYS = ("/attempts/", "/results/")


class WatchedStore:
    """Passes every call on to a store."""

    def __init__(self, store: Store, pause_probability: float = 0.0) -> None:
        """Wrap `store`; the probability is that of SIGSTOP before a claim or a result."""
        self._store = store
        self._pause_probability = pause_probability
        self.claimed_at: dict[str, float] = {}
        """Times at which claims were first sent, by their keys."""

    def create(self, key: str, body: bytes) -> str:
        if "/attempts/" in key:
            self.claimed_at.setdefault(key, time.monotonic())
        self._maybe_pause(key)
        return self._store.create(key, body)

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        self._maybe_pause(key)
        return self._store.replace(key, body, expected=expected)

    def put(self, key: str, body: bytes) -> str:
        self._maybe_pause(key)
        return self._store.put(key, body)

    def _maybe_pause(self, key: str) -> None:
        # Without a probability, no random number is drawn: the scenarios of the tests are exact.
        if not self._pause_probability or not any(name in key for name in _DECISIVE_KEYS):
            return
        if random.random() < self._pause_probability:
            os.kill(os.getpid(), signal.SIGSTOP)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
