"""Keys of tenants: one object each, `keys/{id}`. What is revoked or has expired stays in the list.

They are changed in chains of swaps; whoever checks credentials remembers what it read for half a
minute, so that is how soon a change holds everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.auth.credentials import Credential, KeyRecord, is_key, parse
from services.auth.tenants import add_tenant
from services.errors import ConflictError, NotFoundError, UnknownKeyError
from services.ledger.deletion import delete_tenant
from services.ledger.ids import Ids, check_tenant_name
from services.ledger.ledger import Ledger, compare_and_swap, create_once, gather_in_threads
from services.ledger.records import pack
from services.storage.interface import Head, Store

FOLDER = "keys/"
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made."""

    id: str
    credential: str = field(repr=False)
    """Kept nowhere: this is the one time that it can be shown."""


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as it is listed. Times by the store's clock."""

    id: str
    tenant: str
    name: str
    created: datetime
    expires: datetime | None
    revoked: datetime | None

    def valid(self, now: datetime) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


def create_key(store: Store, tenant: str, name: str = "") -> NewKey:
    """A key of a tenant, and the tenant too if there is none.

    Raises: InvalidIdError, ConflictError for a name that is none; DeletedError of the tenant.
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise ConflictError(
            f"a key's name of {len(name)} characters was given: give at most {MAX_NAME}, in a line"
        )
    add_tenant(store, tenant)
    credential = Credential.new()
    record = KeyRecord(
        nonce=Ids().nonce(),
        tenant=tenant,
        name=name,
        sha256=credential.sha256,
        created=store.now(),
    )
    if not create_once(store, f"{FOLDER}{credential.key}", pack(record)):
        raise ConflictError(f"there is a key {credential.key} already: create one again")
    return NewKey(credential.key, credential.text)


def rotate_key(store: Store, key: str, grace: timedelta) -> NewKey:
    """A new key in place of one that goes on for a while, so that clients can change over.

    Raises: UnknownKeyError; ConflictError if it was revoked; DeletedError of the tenant.
    """
    _, record = read_key(store, key)
    _refuse_revoked(key, record)
    if grace < timedelta(0):
        raise ConflictError(f"a grace of {grace} was given: give 0 or more")
    # The new one first: if this ends half-way, the old one is as it was.
    new = create_key(store, record.tenant, record.name)
    until = store.now() + grace

    def expire(record: KeyRecord) -> dict[str, object]:
        _refuse_revoked(key, record)
        return {"expires": min(until, record.expires or until)}

    try:
        _change(store, key, expire)
    except ConflictError:  # Whoever revoked it meanwhile wants no heir.
        revoke_key(store, new.id)
        raise
    return new


def revoke_key(store: Store, key: str) -> None:
    """Let a key be refused, within half a minute everywhere. Again is fine.

    Raises: UnknownKeyError.
    """
    now = store.now()
    _change(store, key, lambda record: {"revoked": record.revoked or now})


def remove_tenant(ledger: Ledger, tenant: str, by: str = "") -> None:
    """Delete a tenant with all its data, for good, and revoke its keys. Again is fine.

    Raises: InvalidIdError.
    """
    # First: from here on its keys let nobody in, and no new one can be made.
    delete_tenant(ledger, check_tenant_name(tenant), by)
    for key in list_keys(ledger.store, tenant):
        if not key.revoked:
            revoke_key(ledger.store, key.id)


def list_keys(store: Store, tenant: str | None = None) -> list[KeyView]:
    """All keys, or those of a tenant, the oldest first. Raises: DamagedRecordError."""
    names: list[str] = []
    after: str | None = ""
    while after is not None:
        page = store.list(FOLDER, after=after)
        names += [head.key.removeprefix(FOLDER) for head in page.objects]
        after = page.next
    views = gather_in_threads(
        lambda name: _view(store, name), [name for name in names if is_key(name)]
    )
    shown = [view for view in views if view and tenant in (None, view.tenant)]
    return sorted(shown, key=lambda view: (view.tenant, view.created, view.id))


def read_key(store: Store, key: str) -> tuple[Head, KeyRecord]:
    """Raises: UnknownKeyError, DamagedRecordError."""
    unknown = UnknownKeyError(f"there is no key {key[:80]!r}: dti keys list shows all")
    if not is_key(key):
        raise unknown
    try:
        found = store.read(f"{FOLDER}{key}")
    except NotFoundError as error:
        raise unknown from error
    return found.head, parse(found.head.key, found.body, KeyRecord)


def _change(store: Store, key: str, change: Callable[[KeyRecord], dict[str, object]]) -> None:
    while True:
        head, record = read_key(store, key)
        update = change(record) | {"nonce": Ids().nonce(), "version": record.version + 1}
        if compare_and_swap(store, head.key, pack(record.model_copy(update=update)), head.etag):
            return


def _refuse_revoked(key: str, record: KeyRecord) -> None:
    if record.revoked:
        raise ConflictError(
            f"key {key} was revoked: create a new one, dti keys create {record.tenant}"
        )


def _view(store: Store, key: str) -> KeyView | None:
    try:
        _, record = read_key(store, key)
    except UnknownKeyError:
        return None
    return KeyView(key, record.tenant, record.name, record.created, record.expires, record.revoked)
