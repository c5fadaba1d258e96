"""What stands under `keys/` and `tenants/`, outside the tenants' own folders: a line of JSON with a
nonce and a version, as the ledger's records are.
"""

from datetime import datetime
from typing import Literal, TypeVar

from pydantic import Field, JsonValue

from services.errors import DamagedRecordError
from services.ledger.records import Record, unpack


class KeyRecord(Record):
    """A key. Times by the store's clock."""

    type: Literal["key"] = "key"
    version: int = 0
    tenant: str
    name: str = ""
    sha256: str = Field(repr=False)
    """Of the secret."""
    created: datetime
    expires: datetime | None = None
    """None: until it is revoked."""
    revoked: datetime | None = None


class TenantRecord(Record):
    """A tenant: what it may use, and what its webhooks are signed with."""

    type: Literal["tenant"] = "tenant"
    version: int = 0
    limits: dict[str, JsonValue] = Field(default={})
    """Those that are not the defaults, also ones that this version does not know."""
    webhook_secret: str = Field(repr=False)


R = TypeVar("R", bound=Record)


def parse(key: str, body: bytes, kind: type[R]) -> R:
    """Raises: DamagedRecordError."""
    try:
        return unpack(key, body, kind)[0]
    except DamagedRecordError as error:
        raise DamagedRecordError(
            f"{key!r} is not what is written there: restore it, or delete the object"
        ) from error
