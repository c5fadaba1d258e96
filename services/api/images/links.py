"""Signed links to images, which work without an API key until they expire.

All processes share the keys in one object, `service/links`; the first process that needs them
creates it. Deleting the object makes all links invalid.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Literal

from cachetools import TTLCache
from itsdangerous import Signer
from pydantic import Field

from services.errors import NotFoundError, UnknownImageError
from services.ledger.ids import Ids
from services.ledger.ledger import compare_and_swap, create_once
from services.ledger.records import Record, pack, unpack
from services.storage.interface import Store

KEYS_TTL_S = 60.0
"""The time for which a process caches the keys. Rotate less often than this."""

MAX_KEYS = 4
"""The number of keys kept: two older ones, the current one and the next one."""

_OBJECT = "service/links"
_KEY_BYTES = 32


class LinkKeysRecord(Record):
    """The keys that sign links, oldest first.

    The last key is the next one: it is published one rotation before it signs, so that every
    process can verify a link as soon as another process signs with a new key.
    """

    type: Literal["links"] = "links"
    version: int = 0
    keys: list[str] = Field(repr=False, min_length=2)


class SignedLinks:
    """Signs and verifies paths. Thread-safe; `clock` returns seconds since 1970."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: TTLCache[str, list[str]] = TTLCache(1, KEYS_TTL_S, timer=clock)

    def sign(self, path: str, ttl_s: float) -> str:
        """Return the path with a signature that expires after `ttl_s` seconds."""
        expires = int(self._clock() + ttl_s)
        signer = _signer(self._keys()[:-1])
        signature = signer.get_signature(_text(path, expires)).decode()
        return f"{path}?expires={expires}&signature={signature}"

    def verify(self, path: str, expires: int, signature: str) -> None:
        """Check the signature of a path.

        Raises:
            UnknownImageError: The signature is wrong or has expired.
        """
        is_valid = _signer(self._keys()).verify_signature(_text(path, expires), signature)
        if not is_valid or self._clock() >= expires:
            raise UnknownImageError(
                "this link is not valid or has expired: list the images with an API key to get "
                "new links"
            )

    def _keys(self) -> list[str]:
        with self._lock:
            keys = self._cache.get("keys")
            if keys is None:
                keys = self._cache["keys"] = _read_keys(self._store)
            return keys


def rotate_link_keys(store: Store) -> None:
    """Let the next key sign from now on, and publish another next key.

    Links that older keys signed stay valid until `MAX_KEYS` rotations have passed.
    """
    while True:
        _read_keys(store)  # Create the record if there is none.
        found = store.read(_OBJECT)
        record, _ = unpack(_OBJECT, found.body, LinkKeysRecord)
        rotated = record.model_copy(
            update={
                "nonce": Ids().nonce(),
                "version": record.version + 1,
                "keys": [*record.keys, _new_key()][-MAX_KEYS:],
            }
        )
        if compare_and_swap(store, _OBJECT, pack(rotated), found.head.etag):
            return


def _read_keys(store: Store) -> list[str]:
    try:
        body = store.read(_OBJECT).body
    except NotFoundError:
        record = LinkKeysRecord(nonce=Ids().nonce(), keys=[_new_key(), _new_key()])
        create_once(store, _OBJECT, pack(record))
        # Another process may have created it first, so its keys are the ones to use.
        body = store.read(_OBJECT).body
    return unpack(_OBJECT, body, LinkKeysRecord)[0].keys


def _new_key() -> str:
    return secrets.token_urlsafe(_KEY_BYTES)


def _signer(keys: list[str]) -> Signer:
    """Return a signer that signs with the last key and verifies with any of them."""
    return Signer(keys, salt="dti.links", key_derivation="hmac", digest_method=hashlib.sha256)


def _text(path: str, expires: int) -> str:
    return f"{path}\n{expires}"
