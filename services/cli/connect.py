"""The service, opened for a command."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from dti_engine.cli.console import warn

if TYPE_CHECKING:
    from services.client.client import Client

_WORTH_A_WORD = 2.0  # seconds of waiting
_BETWEEN_WORDS = 15.0  # seconds


@contextmanager
def opened(server: str | None, key: str | None, *, outlast: bool = False) -> "Generator[Client]":
    """outlast: whatever becomes of a service that has answered once, it is asked again.

    Raises: SettingsError if there is no server or key.
    """
    from services.client.client import Client
    from services.client.config import find_access

    how = {"patience": inf} if outlast else {}
    with Client.at(find_access(server, key), on_wait=_Words(), **how) as client:
        yield client


class _Words:
    """Says that a request waits, if it is for long, and not each time."""

    def __init__(self) -> None:
        self._last = -inf

    def __call__(self, why: str, seconds: float) -> None:
        now = time.monotonic()
        if seconds >= _WORTH_A_WORD and now - self._last >= _BETWEEN_WORDS:
            self._last = now
            warn(f"{why}; trying again")
