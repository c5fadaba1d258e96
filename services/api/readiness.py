"""Whether the store answers: the readiness check, and the refusal of requests while it does not."""

from dataclasses import dataclass, field

import anyio
from anyio import to_thread
from cachetools import TTLCache
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.problems import unavailable_response
from services.errors import ServiceError, UnavailableError
from services.ledger.keys import WORKERS_FOLDER
from services.storage.gate import StoreGate
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
    gate: StoreGate
    # Requests that wait for a silent store hold all threads of the shared pool. This check is about
    # the store, so that it must not wait for one of them.
    _threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))
    _recent: TTLCache[str, bool] = field(default_factory=_new_cache)

    async def check(self) -> None:
        """Check that the store answers.

        Raises:
            UnavailableError: It does not answer within the timeout, or its gate is shut.
        """
        self.gate.check()
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


_STORELESS = ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
"""Paths that are served without the store, the first three for probes and Prometheus."""


class StoreGateMiddleware:
    """Refuses requests while the gate is shut, before they take a thread or a share of anything."""

    def __init__(self, app: ASGIApp, gate: StoreGate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._gate.is_shut and not _is_storeless(scope["path"]):
            refused = unavailable_response(scope["state"]["request_id"])
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_storeless(path: str) -> bool:
    return path.startswith("/docs/") or path in _STORELESS
