"""Tenants on a store whose clock only tests move, and which can be in trouble."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.auth.authenticator import Authenticator
from services.errors import UnavailableError
from services.storage.memory import MemoryStore

_REQUESTS = ("read", "head", "list", "create", "replace", "put", "delete", "delete_if")


class Place:
    """A store, what was asked of it, and the time there and here."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.inner = MemoryStore(self.now)
        self.requests: list[tuple[str, str]] = []
        self.trouble = False
        self.before: Callable[[str, str], None] | None = None

    def now(self) -> datetime:
        # Years from this host's: whoever mixes the two clocks is found out.
        return datetime(2031, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in _REQUESTS:
            return method

        def ask(key: str, *args: Any, **how: Any) -> Any:
            self.requests.append((name, key))
            if self.before:
                self.before(name, key)
            if self.trouble:
                raise UnavailableError("the store did not answer")
            return method(key, *args, **how)

        return ask

    def authenticator(self, **how: Any) -> Authenticator:
        """Return the authenticator of one process."""
        return Authenticator(self, clock=lambda: self.seconds, **how)  # pyright: ignore


@pytest.fixture
def place() -> Place:
    return Place()
