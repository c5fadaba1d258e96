"""The readiness check: whether the store answers."""

from dataclasses import dataclass, field

import anyio
from anyio import to_thread
from cachetools import TTLCache

from services.errors import ServiceError, UnavailableError
from services.ledger.keys import WORKERS_FOLDER
from services.storage.interface import Store

_TTL_S = 1.0
"""Anyone may call /readyz without a key, so the store is asked at most this often."""


def _new_cache() -> TTLCache[str, bool]:
    return TTLCache(1, _TTL_S)


@dataclass
class Readiness:
    """A check of the store, whose success is cached for a second."""

    store: Store
    timeout_s: float
    # Requests that wait for a silent store hold all threads of the shared pool. This check is about
    # the store, so that it must not wait for one of them.
    _threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))
    _recent: TTLCache[str, bool] = field(default_factory=_new_cache)

    async def check(self) -> None:
        """Check that the store answers.

        Raises:
            UnavailableError: It does not answer within the timeout.
        """
        if "store" in self._recent:
            return
        try:
            with anyio.fail_after(self.timeout_s):
                await to_thread.run_sync(
                    self._list_workers, abandon_on_cancel=True, limiter=self._threads
                )
        except (TimeoutError, ServiceError) as error:
            raise UnavailableError("the store does not answer") from error
        self._recent["store"] = True

    def _list_workers(self) -> None:
        self.store.list(WORKERS_FOLDER, limit=1)
