"""Stored images: one object each, until the image or its tenant is deleted.

Layout: t/{tenant}/images/{id}.png, written once; ids sort newest first.
"""

from dataclasses import dataclass
from datetime import datetime

from services.api.images.links import SignedLinks
from services.auth.tenants import is_deleted
from services.errors import DeletedError, NotFoundError, UnknownImageError
from services.ledger.ids import is_job_id, is_tenant_name
from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger

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

    def save(self, tenant: str, png: bytes) -> str:
        """Store an image and return its id.

        Raises:
            DeletedError: The tenant was deleted.
        """
        image = self.ledger.ids.job()
        key = _key(tenant, image)
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
            return self.ledger.store.read(_key(tenant, image)).body
        except NotFoundError as error:
            raise _unknown() from error

    def delete(self, tenant: str, image: str) -> None:
        """Delete an image.

        Raises:
            UnknownImageError: The image does not exist.
        """
        key = _key(tenant, image)
        if not self.ledger.exists(key):
            raise _unknown()
        self.ledger.store.delete(key)

    def list(self, tenant: str, cursor: str, limit: int) -> tuple[list[StoredImage], str | None]:
        """Return the images after the id `cursor`, and the next cursor or None."""
        folder = _folder(tenant)
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
            _key(tenant, image),
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


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}images/"


def _key(tenant: str, image: str) -> str:
    if not is_tenant_name(tenant) or not is_job_id(image):
        raise _unknown()
    return f"{_folder(tenant)}{image}{_SUFFIX}"


def _unknown() -> UnknownImageError:
    return UnknownImageError("there is no such image, or it was deleted")
