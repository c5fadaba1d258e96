"""Pictures that are kept, for those who want links: one object each, until it is deleted, or its
tenant.

t/{tenant}/pictures/{id}.png    by its one writer; ids sort the newest first
"""

from dataclasses import dataclass
from datetime import datetime

from services.api.links import Links
from services.api.pngs import PNG
from services.errors import DeletedError, NotFoundError, UnknownPictureError
from services.ledger.ids import is_job, is_tenant
from services.ledger.layout import tenant_folder
from services.ledger.ledger import Ledger
from services.tenancy.tenants import is_deleted

_SUFFIX = ".png"


@dataclass(frozen=True, slots=True)
class Kept:
    """A picture, without its bytes."""

    id: str
    size: int
    """Bytes."""
    created: datetime


@dataclass(frozen=True, slots=True)
class Gallery:
    """Of all tenants; safe to share between threads."""

    ledger: Ledger
    links: Links
    seconds: int
    """That links hold."""

    def keep(self, tenant: str, png: bytes) -> str:
        """Its id. Raises: DeletedError of the tenant."""
        picture = self.ledger.ids.job()
        key = _key(tenant, picture)
        self.ledger.store.put(key, png)
        # If the tenant is deleted after this look, what was put is found and deleted with it.
        if is_deleted(self.ledger.store, tenant):
            self.ledger.store.delete(key)
            raise DeletedError(f"tenant {tenant} was deleted")
        return picture

    def read(self, tenant: str, picture: str) -> bytes:
        """The PNG. Raises: UnknownPictureError."""
        try:
            return self.ledger.store.read(_key(tenant, picture)).body
        except NotFoundError as error:
            raise _unknown() from error

    def delete(self, tenant: str, picture: str) -> None:
        """Raises: UnknownPictureError."""
        key = _key(tenant, picture)
        if not self.ledger.exists(key):
            raise _unknown()
        self.ledger.store.delete(key)

    def list(self, tenant: str, cursor: str, limit: int) -> tuple[list[Kept], str | None]:
        """Pictures behind the id `cursor`, and the next cursor; None: there are no more."""
        folder = _folder(tenant)
        after = f"{folder}{cursor}{_SUFFIX}" if cursor else ""
        page = self.ledger.store.list(folder, after=after, limit=limit)
        kept = [
            Kept(head.key[len(folder) :].removesuffix(_SUFFIX), head.size, head.last_modified)
            for head in page.objects
        ]
        return kept, kept[-1].id if page.next is not None and kept else None

    def link(self, tenant: str, picture: str, here: str) -> str:
        """A URL that anyone may get it at for a while: of the store, or of this service, which is
        at the URL `here`.
        """
        of_store = self.ledger.store.presigned_get(
            _key(tenant, picture),
            seconds=self.seconds,
            filename=f"{picture}{_SUFFIX}",
            media_type=PNG,
        )
        path = self.links.sign(path_of(tenant, picture), self.seconds) if not of_store else ""
        return of_store or f"{here.rstrip('/')}{path}"

    def follow(self, tenant: str, picture: str, expires: int, signature: str) -> bytes:
        """What a link of this service leads to. Raises: UnknownPictureError."""
        self.links.check(path_of(tenant, picture), expires, signature)
        return self.read(tenant, picture)


def path_of(tenant: str, picture: str) -> str:
    return f"/pictures/{tenant}/{picture}"


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}pictures/"


def _key(tenant: str, picture: str) -> str:
    if not is_tenant(tenant) or not is_job(picture):
        raise _unknown()
    return f"{_folder(tenant)}{picture}{_SUFFIX}"


def _unknown() -> UnknownPictureError:
    return UnknownPictureError("there is no such picture, or it was deleted")
