"""The text that a client shows to be let in: `dti_ID_SECRET`. The id finds the key, the secret
proves that it is the client's; of the secret only the digest is kept.

What stands under `keys/` and `tenants/`, outside the tenants' own folders: a line of JSON with a
nonce and a version, as the ledger's records are.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import Field, JsonValue

from services.errors import DamagedRecordError
from services.ledger.records import Record, unpack

_ID_BYTES, _SECRET_BYTES = 10, 32
_KEY = re.compile(r"[a-z2-7]{16}", re.ASCII)
_CREDENTIAL = re.compile(r"dti_([a-z2-7]{16})_([a-z2-7]{52})", re.ASCII)

NOBODY = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).hexdigest()
"""A digest that no secret has: what a secret is compared to where there is no key."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential taken apart."""

    key: str
    """The key's id: not secret, and shown in lists and logs."""
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "Credential":
        """One that nobody can guess: 256 bits."""
        return cls(_text(_ID_BYTES), _text(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "Credential | None":
        """None if it cannot be one."""
        match = _CREDENTIAL.fullmatch(text)
        return cls(match[1], match[2]) if match else None

    @property
    def text(self) -> str:
        return f"dti_{self.key}_{self.secret}"

    @property
    def sha256(self) -> str:
        """Of the secret. One that is chance throughout needs no salt and no slow hash."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def proves(self, sha256: str) -> bool:
        """Whether the secret has this digest; how long it takes says nothing."""
        return hmac.compare_digest(self.sha256, sha256)


def is_key(name: str) -> bool:
    """Whether it can be a key's id."""
    return _KEY.fullmatch(name) is not None


def _text(size: int) -> str:
    """So many bytes of chance, in letters and digits that a double click takes whole."""
    return base64.b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower()


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
