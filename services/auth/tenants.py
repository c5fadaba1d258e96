"""Tenants: their limits and webhook secrets, one object each, `tenants/{tenant}`.

The first API key of a tenant creates it.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from services.contracts.jobs import WireModel
from services.errors import (
    ConflictError,
    DamagedRecordError,
    DeletedError,
    NotFoundError,
    SettingsError,
    UnknownTenantError,
)
from services.ledger.ids import Ids, check_tenant_name
from services.ledger.keys import tenant_deletion_key
from services.ledger.ledger import compare_and_swap, create_once
from services.ledger.records import Record, VersionedRecord, pack, unpack
from services.storage.interface import Head, Store

FOLDER = "tenants/"
_SECRET_BYTES = 32

R = TypeVar("R", bound=Record)


class PreviousSecret(WireModel):
    """A webhook secret that was replaced, and signs beside its successor until a time."""

    secret: str = Field(repr=False)
    until: datetime


class TenantRecord(VersionedRecord):
    """A tenant: its limits and the secret that signs its webhooks."""

    type: Literal["tenant"] = "tenant"
    limits: dict[str, JsonValue] = Field(default={})
    """Only limits that were set; limits that a later version added are kept as they are."""
    webhook_secret: str = Field(repr=False)
    previous_secrets: tuple[PreviousSecret, ...] = Field(default=(), repr=False)
    """Secrets before the current one, the latest first. Times are by the store's clock."""


class Limits(WireModel):
    """The limits of a tenant. Each API process applies the rates by itself."""

    requests_per_second: float = Field(default=20.0, gt=0, le=100_000)
    burst: int = Field(
        default=100, ge=1, le=1_000_000, description="requests that may come at once"
    )
    open_items: int = Field(
        default=50_000, ge=0, le=1_000_000_000, description="unfinished items in all jobs"
    )
    upload_bytes: int = Field(
        default=200_000_000, ge=1, le=5_000_000_000, description="size of one upload"
    )
    order_pixel_steps: int = Field(
        default=100_000_000_000_000,
        ge=1,
        le=10**18,
        description="cost of one request or job: steps x pixels x batch size, over all its items",
    )
    order_bytes: int = Field(
        default=100_000_000, ge=1, le=5_000_000_000, description="size of one job as it is stored"
    )


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with its limits."""

    tenant: str
    limits: Limits
    webhook_secret: str = field(repr=False)
    previous_secrets: tuple[PreviousSecret, ...] = field(default=(), repr=False)
    """Replaced secrets that still sign, the latest first."""

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """Return the secrets that sign webhooks now, the current one first."""
        return (self.webhook_secret, *(previous.secret for previous in self.previous_secrets))


def add_tenant(store: Store, tenant: str) -> None:
    """Create a tenant; an existing one stays as it is.

    Raises:
        InvalidIdError: The tenant's name is malformed.
        DeletedError: The tenant was deleted: its name cannot be used again.
    """
    check_tenant_name(tenant)
    if is_deleted(store, tenant):
        raise DeletedError(f"tenant {tenant} was deleted: choose another name")
    record = TenantRecord(nonce=Ids().nonce(), webhook_secret=_new_secret())
    # If there is a record, it stays: its secret signs the webhooks of this tenant.
    create_once(store, f"{FOLDER}{tenant}", pack(record))


def read_tenant(store: Store, tenant: str) -> Tenant:
    """Return a tenant.

    Raises:
        UnknownTenantError: The tenant does not exist.
        DeletedError: The tenant was deleted.
        InvalidIdError: The tenant's name is malformed.
    """
    try:
        head, record = _read(store, tenant)
    except UnknownTenantError:
        # Its record goes with the tenant, after the command to delete it.
        if is_deleted(store, tenant):
            raise DeletedError(f"tenant {tenant} was deleted") from None
        raise
    if is_deleted(store, tenant):
        raise DeletedError(f"tenant {tenant} was deleted")
    return Tenant(
        tenant,
        _limits(record),
        record.webhook_secret,
        _unexpired(record.previous_secrets, head.date),
    )


def rotate_webhook_secret(store: Store, tenant: str, grace: timedelta) -> str:
    """Replace the webhook secret, and return the new one; the old one also signs for `grace`.

    Each message carries a signature by every secret that signs, so that receivers which know only
    one of them accept it.

    Raises:
        ConflictError: `grace` is negative.
        UnknownTenantError: The tenant does not exist.
        DeletedError: The tenant was deleted.
        InvalidIdError: The tenant's name is malformed.
    """
    if grace < timedelta(0):
        raise ConflictError(f"the grace period is {grace}: give 0 or more")
    secret = _new_secret()
    while True:
        read_tenant(store, tenant)
        head, record = _read(store, tenant)
        replaced = PreviousSecret(secret=record.webhook_secret, until=head.date + grace)
        previous = _unexpired((replaced, *record.previous_secrets), head.date)
        changed = record.changed(webhook_secret=secret, previous_secrets=previous)
        if compare_and_swap(store, f"{FOLDER}{tenant}", pack(changed), head.etag):
            return secret


def set_limits(store: Store, tenant: str, changes: Mapping[str, Any]) -> Limits:
    """Change the named limits and no others, and return all limits.

    Concurrent changes of other limits are kept. API processes apply the new limits within half a
    minute.

    Raises:
        SettingsError: A limit is unknown, or its value is out of range.
        UnknownTenantError: The tenant does not exist.
        InvalidIdError: The tenant's name is malformed.
    """
    while True:
        head, record = _read(store, tenant)
        try:
            limits = Limits.model_validate(_limits(record).model_dump() | dict(changes))
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(
                f"{first['loc'][0]} is {first['input']!r}: {first['msg']}; the limits are "
                f"{', '.join(Limits.model_fields)}"
            ) from error
        changed = record.changed(limits=record.limits | limits.model_dump(include=set(changes)))
        if compare_and_swap(store, f"{FOLDER}{tenant}", pack(changed), head.etag):
            return limits


def is_deleted(store: Store, tenant: str) -> bool:
    """Return True if the tenant was deleted."""
    try:
        store.head(tenant_deletion_key(tenant))
    except NotFoundError:
        return False
    return True


def parse_record(key: str, body: bytes, kind: type[R]) -> R:
    """Return the record in the body of the object at `key`.

    Raises:
        DamagedRecordError: The body is not such a record.
    """
    try:
        return unpack(key, body, kind)[0]
    except DamagedRecordError as error:
        raise DamagedRecordError(
            f"the object {key!r} is damaged: restore it or delete it"
        ) from error


def _read(store: Store, tenant: str) -> tuple[Head, TenantRecord]:
    key = f"{FOLDER}{check_tenant_name(tenant)}"
    try:
        found = store.read(key)
    except NotFoundError as error:
        raise UnknownTenantError(
            f"there is no tenant {tenant}: `dti keys create {tenant}` creates it"
        ) from error
    return found.head, parse_record(key, found.body, TenantRecord)


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _unexpired(previous: tuple[PreviousSecret, ...], now: datetime) -> tuple[PreviousSecret, ...]:
    return tuple(each for each in previous if now < each.until)


def _limits(record: TenantRecord) -> Limits:
    # Limits that a later version added are ignored here, and kept in the record.
    known = {name: value for name, value in record.limits.items() if name in Limits.model_fields}
    try:
        return Limits.model_validate(known)
    except ValidationError as error:
        raise DamagedRecordError(
            f"the limits of a tenant are {known}: {error.errors()[0]['msg']}; restore its object"
        ) from error
