"""The client of the service, opened for one command."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any

from dti_engine.cli.console import warn

if TYPE_CHECKING:
    from services.client.client import Client

_WORTH_A_WARNING_S = 2.0  # of one pause
_BETWEEN_WARNINGS_S = 15.0


@contextmanager
def connect(
    server: str | None, api_key: str | None, *, forever: bool = False
) -> "Generator[Client]":
    """Open a client; with `forever`, a service that has answered once is retried without end.

    Raises: SettingsError if no server or API key is configured.
    """
    from services.client.client import Client
    from services.client.config import find_server

    retries: dict[str, Any] = {"retry_for_s": inf} if forever else {}
    with Client.at(find_server(server, api_key), on_wait=_WaitWarnings(), **retries) as client:
        yield client


class _WaitWarnings:
    """Warns of long pauses between attempts, and not of each."""

    def __init__(self) -> None:
        self._warned_at = -inf

    def __call__(self, reason: str, pause_s: float) -> None:
        now = time.monotonic()
        if pause_s >= _WORTH_A_WARNING_S and now - self._warned_at >= _BETWEEN_WARNINGS_S:
            self._warned_at = now
            warn(f"{reason}; trying again")
