"""Stored images, and the signed links to them that work without an API key until they expire.

Images are at t/{tenant}/images/{id}.png, written once, until the image or its tenant is deleted;
ids sort newest first. All processes share the keys that sign links in one object, `service/links`;
the first process that needs them creates it. Deleting the object makes all links invalid.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cachetools import TTLCache
from itsdangerous import Signer
from pydantic import Field

from services.auth.tenants import is_deleted
from services.errors import DeletedError, NotFoundError, UnknownImageError
from services.ledger import image_index
from services.ledger.ids import Ids, is_job_id, is_tenant_name
from services.ledger.ledger import Ledger, compare_and_swap, create_once
from services.ledger.records import VersionedRecord, pack, unpack
from services.storage.interface import Store

KEYS_TTL_S = 60.0
"""The time for which a process caches the keys. Rotate less often than this."""

MAX_KEYS = 4
"""The number of keys kept: two older ones, the current one and the next one."""

_OBJECT = "service/links"
_KEY_BYTES = 32


class LinkKeysRecord(VersionedRecord):
    """The keys that sign links, oldest first.

    The last key is the next one: it is published one rotation before it signs, so that every
    process can verify a link as soon as another process signs with a new key.
    """

    type: Literal["links"] = "links"
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
        # Not with the last key, which other processes may not have read yet.
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
        rotated = record.changed(keys=[*record.keys, _new_key()][-MAX_KEYS:])
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


PNG = "image/png"
_SUFFIX = ".png"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A stored image, without its bytes."""

    id: str
    num_bytes: int
    created: datetime


@dataclass(frozen=True, slots=True)
class ImageStore:
    """The stored images of all tenants. Thread-safe."""

    ledger: Ledger
    links: SignedLinks
    link_ttl_s: int

    def save(self, tenant: str, png: bytes, names: Collection[str] = ()) -> str:
        """Store an image and return its id.

        Args:
            tenant: The tenant whose image it is.
            png: Its bytes.
            names: The tokens and aliases that it was made with, by which it can be erased.

        Raises:
            DeletedError: The tenant was deleted.
        """
        image = self.ledger.ids.job()
        key = image_key(tenant, image)
        image_index.add(self.ledger, tenant, names, image)
        self.ledger.store.put(key, png)
        # Checked after the write: a deletion that starts later finds the object and deletes it.
        if is_deleted(self.ledger.store, tenant):
            self.ledger.store.delete(key)
            raise DeletedError(f"tenant {tenant} was deleted")
        return image

    def read(self, tenant: str, image: str) -> bytes:
        """Return the PNG of an image.

        Raises:
            UnknownImageError: The image does not exist.
        """
        try:
            return self.ledger.store.read(image_key(tenant, image)).body
        except NotFoundError as error:
            raise _unknown() from error

    def delete(self, tenant: str, image: str) -> None:
        """Delete an image.

        Raises:
            UnknownImageError: The image does not exist.
        """
        key = image_key(tenant, image)
        if not self.ledger.exists(key):
            raise _unknown()
        self.ledger.store.delete(key)

    def list(self, tenant: str, cursor: str, limit: int) -> tuple[list[StoredImage], str | None]:
        """Return the images after the id `cursor`, and the next cursor or None."""
        folder = image_index.images_folder(tenant)
        after = f"{folder}{cursor}{_SUFFIX}" if cursor else ""
        page = self.ledger.store.list(folder, after=after, limit=limit)
        images = [
            StoredImage(
                head.key[len(folder) :].removesuffix(_SUFFIX), head.size, head.last_modified
            )
            for head in page.objects
        ]
        return images, images[-1].id if page.next is not None and images else None

    def link(self, tenant: str, image: str, base_url: str) -> str:
        """Return a URL of the image that works without an API key until it expires.

        The store's own presigned URL is used if it has one, so that the bytes bypass the API;
        otherwise the URL is one of this service, which is at `base_url`.
        """
        presigned = self.ledger.store.presigned_get(
            image_key(tenant, image),
            expires_s=self.link_ttl_s,
            filename=f"{image}{_SUFFIX}",
            media_type=PNG,
        )
        if presigned:
            return presigned
        return f"{base_url.rstrip('/')}{self.links.sign(_path(tenant, image), self.link_ttl_s)}"

    def read_by_link(self, tenant: str, image: str, expires: int, signature: str) -> bytes:
        """Return the PNG that a link of this service points to.

        Raises:
            UnknownImageError: The link is not valid, has expired, or the image does not exist.
        """
        self.links.verify(_path(tenant, image), expires, signature)
        return self.read(tenant, image)


def _path(tenant: str, image: str) -> str:
    return f"/images/{tenant}/{image}"


def image_key(tenant: str, image: str) -> str:
    """Return the key of an image, or raise UnknownImageError if its id is malformed."""
    if not is_tenant_name(tenant) or not is_job_id(image):
        raise _unknown()
    return f"{image_index.images_folder(tenant)}{image}{_SUFFIX}"


def _unknown() -> UnknownImageError:
    return UnknownImageError("there is no such image, or it was deleted")
