"""Links that anyone may follow for a while, signed with a secret that the store keeps for all
processes: `service/links`, made by the first that needs it. Without it, all links are void.
"""

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from services.errors import NotFoundError, UnknownPictureError
from services.ledger.ids import Ids
from services.ledger.records import Record, pack, unpack
from services.ledger.writing import create_once
from services.storage.interface import Store

_KEY = "service/links"
_SECRET_BYTES = 32


class LinksRecord(Record):
    """What links are signed with."""

    type: Literal["links"] = "links"
    secret: str = Field(repr=False)


class Links:
    """Of one process; safe to share between threads. `clock` in seconds since 1970."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._secret: bytes | None = None

    def sign(self, path: str, seconds: float) -> str:
        """The path with all that lets anyone follow it for so long."""
        expires = int(self._clock() + seconds)
        return f"{path}?expires={expires}&signature={self._signature(path, expires)}"

    def check(self, path: str, expires: int, signature: str) -> None:
        """Raises: UnknownPictureError: it was never signed so, or is over."""
        whole = hmac.compare_digest(self._signature(path, expires).encode(), signature.encode())
        if not whole or self._clock() >= expires:
            raise UnknownPictureError(
                "this link is not whole, or is over: with the key, there are new ones where it was"
            )

    def _signature(self, path: str, expires: int) -> str:
        text = f"{path}\n{expires}".encode()
        return _text(hmac.new(self._read_secret(), text, hashlib.sha256).digest())

    def _read_secret(self) -> bytes:
        with self._lock:
            if self._secret is None:
                self._secret = self._find() or self._make()
            return self._secret

    def _find(self) -> bytes | None:
        try:
            body = self._store.read(_KEY).body
        except NotFoundError:
            return None
        return unpack(_KEY, body, LinksRecord)[0].secret.encode()

    def _make(self) -> bytes:
        secret = _text(secrets.token_bytes(_SECRET_BYTES))
        record = LinksRecord(nonce=Ids().nonce(), secret=secret)
        create_once(self._store, _KEY, pack(record))
        found = self._find()  # Another process may have been first.
        assert found
        return found


def _text(number: bytes) -> str:
    return base64.urlsafe_b64encode(number).decode().rstrip("=")
