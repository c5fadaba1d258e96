"""Whether the store answers."""

import time
from dataclasses import dataclass

import anyio
from anyio import to_thread

from services.errors import ServiceError, UnavailableError
from services.ledger.keys import WORKERS_FOLDER
from services.storage.interface import Store

_GOOD_FOR = 1.0
"""Seconds: anyone may ask, and the store is asked no more often."""


@dataclass
class Readiness:
    """Whether the store answers, as it was found out last."""

    store: Store
    patience: float
    asked: float = float("-inf")

    async def check(self) -> None:
        """Raises: UnavailableError."""
        if time.monotonic() - self.asked < _GOOD_FOR:
            return
        try:
            with anyio.fail_after(self.patience):
                await to_thread.run_sync(self._touch, abandon_on_cancel=True)
        except (TimeoutError, ServiceError) as error:
            raise UnavailableError("the store does not answer") from error
        self.asked = time.monotonic()

    def _touch(self) -> None:
        self.store.list(WORKERS_FOLDER, limit=1)
