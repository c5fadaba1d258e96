"""Tenants: what each may use, and what its webhooks are signed with. One object each,
`tenants/{tenant}`, made with the first key.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from services.auth.credentials import TenantRecord, parse
from services.contracts.jobs import WireModel
from services.errors import (
    DamagedRecordError,
    DeletedError,
    NotFoundError,
    SettingsError,
    UnknownTenantError,
)
from services.ledger.ids import Ids, check_tenant_name
from services.ledger.keys import tenant_deletion_key
from services.ledger.ledger import compare_and_swap, create_once
from services.ledger.records import pack
from services.storage.interface import Store

FOLDER = "tenants/"
_SECRET_BYTES = 32


class Limits(WireModel):
    """What a tenant may use. Rates hold in each API process by itself."""

    requests_per_second: float = Field(default=20.0, gt=0, le=100_000)
    burst: int = Field(default=100, ge=1, le=1_000_000, description="requests at once")
    open_items: int = Field(
        default=50_000, ge=0, le=1_000_000_000, description="that have not ended, in all jobs"
    )
    upload_bytes: int = Field(
        default=200_000_000, ge=1, le=5_000_000_000, description="of one upload"
    )


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as it stands."""

    tenant: str
    limits: Limits
    webhook_secret: str = field(repr=False)


def add_tenant(store: Store, tenant: str) -> None:
    """Let there be this tenant. One that is there stays as it is.

    Raises: InvalidIdError; DeletedError if it was deleted, for good.
    """
    check_tenant_name(tenant)
    if is_deleted(store, tenant):
        raise DeletedError(f"tenant {tenant} was deleted: give the new one another name")
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    record = TenantRecord(nonce=Ids().nonce(), webhook_secret=secret)
    create_once(store, f"{FOLDER}{tenant}", pack(record))


def read_tenant(store: Store, tenant: str) -> Tenant:
    """Raises: UnknownTenantError, DeletedError, InvalidIdError."""
    _, record = _read(store, tenant)
    if is_deleted(store, tenant):
        raise DeletedError(f"tenant {tenant} was deleted")
    return Tenant(tenant, _limits(record), record.webhook_secret)


def set_limits(store: Store, tenant: str, changes: Mapping[str, Any]) -> Limits:
    """Change those limits that are named, and no others, whoever else changes some meanwhile. API
    processes go by the new ones within half a minute.

    Raises: SettingsError for limits that are none; UnknownTenantError, InvalidIdError.
    """
    while True:
        etag, record = _read(store, tenant)
        try:
            asked = Limits.model_validate(_limits(record).model_dump() | dict(changes))
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(
                f"{first['loc'][0]} is {first['input']!r}: {first['msg']}; limits are "
                f"{', '.join(Limits.model_fields)}"
            ) from error
        changed = record.model_copy(
            update={
                "nonce": Ids().nonce(),
                "version": record.version + 1,
                "limits": record.limits | asked.model_dump(include=set(changes)),
            }
        )
        if compare_and_swap(store, f"{FOLDER}{tenant}", pack(changed), etag):
            return asked


def is_deleted(store: Store, tenant: str) -> bool:
    """Whether it was deleted with all its data, for good."""
    try:
        store.head(tenant_deletion_key(tenant))
    except NotFoundError:
        return False
    return True


def _read(store: Store, tenant: str) -> tuple[str, TenantRecord]:
    key = f"{FOLDER}{check_tenant_name(tenant)}"
    try:
        found = store.read(key)
    except NotFoundError as error:
        raise UnknownTenantError(
            f"there is no tenant {tenant}: its first key makes it, dti keys create {tenant}"
        ) from error
    return found.head.etag, parse(key, found.body, TenantRecord)


def _limits(record: TenantRecord) -> Limits:
    known = {name: value for name, value in record.limits.items() if name in Limits.model_fields}
    try:
        return Limits.model_validate(known)
    except ValidationError as error:
        raise DamagedRecordError(
            f"limits of a tenant are {known}: {error.errors()[0]['msg']}; restore its object"
        ) from error
