"""Pseudonyms: keyed hashes that stand for a tenant's own names in keys of the store.

A plain hash of a name can be found by trying names, such as e-mail addresses. These hashes need the
tenant's key, `t/{tenant}/pseudonyms`, which is deleted with the tenant: from then on nothing can
tell what a hash stood for.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from services.errors import NotFoundError
from services.ledger.ids import Ids
from services.ledger.keys import tenant_folder
from services.ledger.ledger import create_once
from services.ledger.records import Record, pack, unpack
from services.storage.interface import Store

_KEY_BYTES = 32


class PseudonymKeyRecord(Record):
    """The key of a tenant's pseudonyms."""

    type: Literal["pseudonym_key"] = "pseudonym_key"
    key: str = Field(repr=False)


def pseudonym(store: Store, tenant: str, name: str) -> str:
    """Return the pseudonym of a name, 64 hexadecimal digits; the first one makes the key."""
    if found := find_pseudonym(store, tenant, name):
        return found
    record = PseudonymKeyRecord(nonce=Ids().nonce(), key=secrets.token_hex(_KEY_BYTES))
    create_once(store, _key(tenant), pack(record))
    # Another process may have been first, so that its key is the one to use.
    body = store.read(_key(tenant)).body
    return _digest(unpack(_key(tenant), body, PseudonymKeyRecord)[0], name)


def find_pseudonym(store: Store, tenant: str, name: str) -> str | None:
    """Return the pseudonym of a name; None if the tenant has no key, and so no pseudonyms."""
    return next(iter(find_pseudonyms(store, tenant, [name])), None)


def find_pseudonyms(store: Store, tenant: str, names: Iterable[str]) -> list[str]:
    """Return the pseudonyms of names, in one request; none if the tenant has no key."""
    try:
        body = store.read(_key(tenant)).body
    except NotFoundError:
        return []
    record = unpack(_key(tenant), body, PseudonymKeyRecord)[0]
    return [_digest(record, name) for name in names]


def _digest(record: PseudonymKeyRecord, name: str) -> str:
    return hmac.new(bytes.fromhex(record.key), name.encode(), hashlib.sha256).hexdigest()


def _key(tenant: str) -> str:
    return f"{tenant_folder(tenant)}pseudonyms"
