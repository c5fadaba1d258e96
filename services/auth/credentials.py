"""API key credentials, `dti_ID_SECRET`, and the records of keys and tenants in the store.

The id finds the key; the secret proves that the key is the client's. The store keeps only the
SHA-256 of the secret. Records lie under `keys/` and `tenants/`, outside the tenants' own folders,
as one line of JSON each with a nonce and a version.
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


class KeyRecord(Record):
    """An API key. Times are by the store's clock."""

    type: Literal["key"] = "key"
    version: int = 0
    tenant: str
    name: str = ""
    sha256: str = Field(repr=False)
    """The digest of the secret."""
    created: datetime
    expires: datetime | None = None
    """None if the key does not expire."""
    revoked: datetime | None = None


class TenantRecord(Record):
    """A tenant: its limits and the secret that signs its webhooks."""

    type: Literal["tenant"] = "tenant"
    version: int = 0
    limits: dict[str, JsonValue] = Field(default={})
    """Only limits that were set; limits that a later version added are kept as they are."""
    webhook_secret: str = Field(repr=False)


R = TypeVar("R", bound=Record)


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
