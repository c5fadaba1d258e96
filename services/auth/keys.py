"""API keys: one object each, `keys/{id}`. Revoked and expired keys stay in the list.

The credential of a key is `dti_ID_SECRET`. The id finds the key; the secret proves that the key is
the client's. The store keeps only the SHA-256 of the secret.

Changes use compare-and-swap. The processes that authenticate cache the records for half a minute,
so a change takes effect everywhere within that time.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from services.auth.scopes import Scope
from services.auth.tenants import FOLDER as TENANTS_FOLDER
from services.auth.tenants import add_tenant, parse_record
from services.errors import ConflictError, NotFoundError, UnknownKeyError
from services.ledger.deletion import delete_tenant
from services.ledger.ids import Ids, check_tenant_name
from services.ledger.ledger import Ledger, compare_and_swap, create_once, gather_in_threads
from services.ledger.records import VersionedRecord, pack
from services.storage.interface import Head, Store

FOLDER = "keys/"
MAX_NAME_LENGTH = 200

_ID_BYTES, _SECRET_BYTES = 10, 32
_KEY_ID = re.compile(r"[a-z2-7]{16}", re.ASCII)
_CREDENTIAL = re.compile(r"dti_([a-z2-7]{16})_([a-z2-7]{52})", re.ASCII)

UNKNOWN_KEY_SHA256 = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).hexdigest()
"""The digest that a secret is compared with if its key is unknown. No known secret has it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential, parsed."""

    key: str
    """The key's id. It is not secret: lists and logs show it."""
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "Credential":
        """Return a new credential with a random secret of 256 bits."""
        return cls(_random_text(_ID_BYTES), _random_text(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "Credential | None":
        """Return the credential in `text`; None if it is malformed."""
        match = _CREDENTIAL.fullmatch(text)
        return cls(match[1], match[2]) if match else None

    @property
    def text(self) -> str:
        return f"dti_{self.key}_{self.secret}"

    @property
    def sha256(self) -> str:
        """Return the digest of the secret.

        A secret of 256 random bits cannot be guessed, so it needs neither a salt nor a slow hash.
        """
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def matches(self, sha256: str) -> bool:
        """Return True if the secret has this digest, in constant time."""
        return hmac.compare_digest(self.sha256, sha256)


def is_key_id(name: str) -> bool:
    """Return True if `name` has the form of a key's id."""
    return _KEY_ID.fullmatch(name) is not None


def _random_text(num_bytes: int) -> str:
    """Return random bytes as base32: letters and digits alone, so a double click selects all."""
    return base64.b32encode(secrets.token_bytes(num_bytes)).decode().rstrip("=").lower()


class KeyRecord(VersionedRecord):
    """An API key. Times are by the store's clock."""

    type: Literal["key"] = "key"
    tenant: str
    name: str = ""
    scope: Scope = "all"
    sha256: str = Field(repr=False)
    """The digest of the secret."""
    created: datetime
    expires: datetime | None = None
    """None if the key does not expire."""
    valid_for_s: float | None = None
    """How long the key is valid from its creation; None if it does not expire by itself."""
    revoked: datetime | None = None

    @property
    def valid_for(self) -> timedelta | None:
        return None if self.valid_for_s is None else timedelta(seconds=self.valid_for_s)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created."""

    id: str
    credential: str = field(repr=False)
    """The credential is not stored: it cannot be shown again."""


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key without its secret. Times are by the store's clock."""

    id: str
    tenant: str
    name: str
    scope: Scope
    created: datetime
    expires: datetime | None
    revoked: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Return True if the key is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def create_key(
    store: Store,
    tenant: str,
    name: str = "",
    *,
    scope: Scope = "all",
    valid_for: timedelta | None = None,
) -> NewKey:
    """Create a key, and the tenant if it does not exist.

    Args:
        store: The store of the service.
        tenant: The tenant that the key belongs to.
        name: What the key is for.
        scope: What the requests of the key may do.
        valid_for: How long the key is valid; None if it does not expire.

    Raises:
        InvalidIdError: The tenant's name is malformed.
        ConflictError: The key's name is too long or not printable, or `valid_for` is not positive.
        DeletedError: The tenant was deleted.
    """
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise ConflictError(
            f"the key's name has {len(name)} characters: give at most {MAX_NAME_LENGTH}, all "
            "printable"
        )
    if valid_for is not None and valid_for <= timedelta(0):
        raise ConflictError(f"the key would be valid for {valid_for}: give more than 0")
    add_tenant(store, tenant)
    credential = Credential.new()
    now = store.now()
    record = KeyRecord(
        nonce=Ids().nonce(),
        tenant=tenant,
        name=name,
        scope=scope,
        sha256=credential.sha256,
        created=now,
        expires=None if valid_for is None else now + valid_for,
        valid_for_s=None if valid_for is None else valid_for.total_seconds(),
    )
    # Hardly ever: ids have 80 random bits. But an existing key must not get another secret.
    if not create_once(store, f"{FOLDER}{credential.key}", pack(record)):
        raise ConflictError(f"the key {credential.key} exists already: create another one")
    return NewKey(credential.key, credential.text)


def rotate_key(store: Store, key: str, grace: timedelta) -> NewKey:
    """Create a successor of a key, which expires after `grace` so that clients can change over.

    The successor has the name and the scope of the key, and is valid for as long as the key was
    when it was created.

    Raises:
        UnknownKeyError: The key does not exist.
        ConflictError: The key was revoked, or `grace` is negative.
        DeletedError: The tenant was deleted.
    """
    _, record = read_key(store, key)
    _refuse_revoked(key, record)
    if grace < timedelta(0):
        raise ConflictError(f"the grace period is {grace}: give 0 or more")
    # The successor comes first: if the process dies here, the old key is still valid.
    new = create_key(
        store, record.tenant, record.name, scope=record.scope, valid_for=record.valid_for
    )
    expires = store.now() + grace

    def expire(record: KeyRecord) -> dict[str, object]:
        _refuse_revoked(key, record)
        return {"expires": min(expires, record.expires or expires)}

    try:
        _change(store, key, expire)
    except ConflictError:  # The key was revoked meanwhile, so it must not have a successor.
        revoke_key(store, new.id)
        raise
    return new


def revoke_key(store: Store, key: str) -> None:
    """Revoke a key; every process refuses it within half a minute. Idempotent.

    Raises:
        UnknownKeyError: The key does not exist.
    """
    now = store.now()
    _change(store, key, lambda record: {"revoked": record.revoked or now})


def remove_tenant(ledger: Ledger, tenant: str, by: str = "") -> None:
    """Delete a tenant with all its data, and revoke its keys. Idempotent; it cannot be undone.

    Its webhook secret and its limits go, and so do the names of its keys, which are its own texts.
    What stays is the name of the tenant, so that it is never used again, and the ids of its keys.

    Raises:
        InvalidIdError: The tenant's name is malformed.
    """
    # The tombstone comes first: from then on its keys are refused, and no new key can be made.
    delete_tenant(ledger, check_tenant_name(tenant), by)
    ledger.store.delete(f"{TENANTS_FOLDER}{tenant}")
    now = ledger.store.now()
    for key in list_keys(ledger.store, tenant):
        if not key.revoked or key.name:
            _change(
                ledger.store,
                key.id,
                lambda record: {"revoked": record.revoked or now, "name": ""},
            )


def list_keys(store: Store, tenant: str | None = None) -> list[KeyView]:
    """Return all keys, or those of one tenant, by tenant and oldest first.

    Raises:
        DamagedRecordError: The record of a key is damaged.
    """
    names: list[str] = []
    after: str | None = ""
    while after is not None:
        page = store.list(FOLDER, after=after)
        names += [head.key.removeprefix(FOLDER) for head in page.objects]
        after = page.next
    views = gather_in_threads(
        lambda name: _view(store, name), [name for name in names if is_key_id(name)]
    )
    shown = [view for view in views if view and tenant in (None, view.tenant)]
    return sorted(shown, key=lambda view: (view.tenant, view.created, view.id))


def read_key(store: Store, key: str) -> tuple[Head, KeyRecord]:
    """Return the record of a key and the head of its object.

    Raises:
        UnknownKeyError: The key does not exist.
        DamagedRecordError: Its record is damaged.
    """
    unknown = UnknownKeyError(f"there is no key {key[:80]!r}: `dti keys list` shows all keys")
    if not is_key_id(key):
        raise unknown
    try:
        found = store.read(f"{FOLDER}{key}")
    except NotFoundError as error:
        raise unknown from error
    return found.head, parse_record(found.head.key, found.body, KeyRecord)


def _change(store: Store, key: str, change: Callable[[KeyRecord], dict[str, object]]) -> None:
    while True:
        head, record = read_key(store, key)
        # Called again for each version, so that it decides by the record that it replaces.
        if compare_and_swap(store, head.key, pack(record.changed(**change(record))), head.etag):
            return


def _refuse_revoked(key: str, record: KeyRecord) -> None:
    if record.revoked:
        raise ConflictError(
            f"key {key} was revoked: create a new one by `dti keys create {record.tenant}`"
        )


def _view(store: Store, key: str) -> KeyView | None:
    try:
        _, record = read_key(store, key)
    except UnknownKeyError:
        return None
    return KeyView(
        key,
        record.tenant,
        record.name,
        record.scope,
        record.created,
        record.expires,
        record.revoked,
    )
