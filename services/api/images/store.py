"""Images that are kept, for those who want links: one object each, until it is deleted, or its
tenant.

t/{tenant}/images/{id}.png    by its one writer; ids sort the newest first

Links that anyone may follow for a while, signed with a secret that the store keeps for all
processes: `service/links`, made by the first that needs it. Without it, all links are void.

Images as answers.
"""

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fastapi.responses import Response
from pydantic import Field

from services.auth.tenants import is_deleted
from services.errors import DeletedError, NotFoundError, UnknownImageError
from services.ledger.ids import Ids, is_job_id, is_tenant_name
from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger, create_once
from services.ledger.records import Record, pack, unpack
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
        """Raises: UnknownImageError: it was never signed so, or is over."""
        whole = hmac.compare_digest(self._signature(path, expires).encode(), signature.encode())
        if not whole or self._clock() >= expires:
            raise UnknownImageError(
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


PNG = "image/png"


def png_answer(body: bytes) -> Response:
    """One that no cache keeps, since it may be deleted."""
    return Response(
        body,
        media_type=PNG,
        headers={"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"},
    )


_SUFFIX = ".png"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image, without its bytes."""

    id: str
    size: int
    """Bytes."""
    created: datetime


@dataclass(frozen=True, slots=True)
class ImageStore:
    """Of all tenants; safe to share between threads."""

    ledger: Ledger
    links: Links
    seconds: int
    """That links hold."""

    def keep(self, tenant: str, png: bytes) -> str:
        """Its id. Raises: DeletedError of the tenant."""
        image = self.ledger.ids.job()
        key = _key(tenant, image)
        self.ledger.store.put(key, png)
        # If the tenant is deleted after this look, what was put is found and deleted with it.
        if is_deleted(self.ledger.store, tenant):
            self.ledger.store.delete(key)
            raise DeletedError(f"tenant {tenant} was deleted")
        return image

    def read(self, tenant: str, image: str) -> bytes:
        """The PNG. Raises: UnknownImageError."""
        try:
            return self.ledger.store.read(_key(tenant, image)).body
        except NotFoundError as error:
            raise _unknown() from error

    def delete(self, tenant: str, image: str) -> None:
        """Raises: UnknownImageError."""
        key = _key(tenant, image)
        if not self.ledger.exists(key):
            raise _unknown()
        self.ledger.store.delete(key)

    def list(self, tenant: str, cursor: str, limit: int) -> tuple[list[StoredImage], str | None]:
        """Images behind the id `cursor`, and the next cursor; None: there are no more."""
        folder = _folder(tenant)
        after = f"{folder}{cursor}{_SUFFIX}" if cursor else ""
        page = self.ledger.store.list(folder, after=after, limit=limit)
        kept = [
            StoredImage(
                head.key[len(folder) :].removesuffix(_SUFFIX), head.size, head.last_modified
            )
            for head in page.objects
        ]
        return kept, kept[-1].id if page.next is not None and kept else None

    def link(self, tenant: str, image: str, here: str) -> str:
        """A URL that anyone may get it at for a while: of the store, or of this service, which is
        at the URL `here`.
        """
        of_store = self.ledger.store.presigned_get(
            _key(tenant, image),
            expires_s=self.seconds,
            filename=f"{image}{_SUFFIX}",
            media_type=PNG,
        )
        path = self.links.sign(path_of(tenant, image), self.seconds) if not of_store else ""
        return of_store or f"{here.rstrip('/')}{path}"

    def follow(self, tenant: str, image: str, expires: int, signature: str) -> bytes:
        """What a link of this service leads to. Raises: UnknownImageError."""
        self.links.check(path_of(tenant, image), expires, signature)
        return self.read(tenant, image)


def path_of(tenant: str, image: str) -> str:
    return f"/images/{tenant}/{image}"


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}images/"


def _key(tenant: str, image: str) -> str:
    if not is_tenant_name(tenant) or not is_job_id(image):
        raise _unknown()
    return f"{_folder(tenant)}{image}{_SUFFIX}"


def _unknown() -> UnknownImageError:
    return UnknownImageError("there is no such image, or it was deleted")
