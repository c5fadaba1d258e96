"""Authentication of API keys, with a cache in front of the store.

A wrong secret and an unknown key id get the same error after the same single read and the same
comparison, so that a caller cannot tell them apart. Records are cached for 30 seconds: a revoked
key, a deleted tenant and new limits take effect everywhere within that time. While the store is
unavailable, keys that were read in the last 5 minutes stay valid; no other key is accepted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.auth.keys import UNKNOWN_KEY_SHA256, Credential, KeyRecord, read_key
from services.auth.scopes import Scope
from services.auth.tenants import Limits, Tenant, read_tenant
from services.caching.stale_while_error import MAX_ENTRIES, CacheEntry, StaleWhileErrorCache
from services.errors import DeletedError, UnknownKeyError, UnknownTenantError
from services.storage.interface import Store

CACHE_TTL_S = 30.0
MAX_STALE_S = 300.0


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller of a request."""

    tenant: str
    key: str
    """The id of the API key."""
    limits: Limits
    scope: Scope


@dataclass(frozen=True, slots=True)
class _DatedKey:
    """The record of a key, and the time by the store's clock at which it was read."""

    record: KeyRecord
    read_at: datetime


class Authenticator:
    """Authenticates credentials. Thread-safe.

    Many requests may wait for one read, so the store should time out early, as `Ledger.leases`
    does.
    """

    def __init__(
        self,
        store: Store,
        cache_ttl_s: float = CACHE_TTL_S,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._store = store
        self._clock = clock
        self._keys: StaleWhileErrorCache[_DatedKey] = StaleWhileErrorCache(
            self._read_key,
            ttl_s=cache_ttl_s,
            max_stale_s=MAX_STALE_S,
            max_entries=max_entries,
            clock=clock,
        )
        self._tenants: StaleWhileErrorCache[Tenant] = StaleWhileErrorCache(
            self._read_tenant,
            ttl_s=cache_ttl_s,
            max_stale_s=MAX_STALE_S,
            max_entries=max_entries,
            clock=clock,
        )

    def authenticate(self, text: str) -> Principal:
        """Return the principal of a credential.

        Raises:
            UnknownKeyError: The credential is malformed, unknown, wrong, expired or revoked, or
                its tenant was deleted.
            UnavailableError: The store does not answer.
        """
        if (credential := Credential.parse(text)) is None:
            raise _unknown()
        entry = self._keys.get(credential.key)
        key = entry.value
        # An unknown key is compared too, so that the time taken does not reveal which keys exist.
        matches = credential.matches(key.record.sha256 if key else UNKNOWN_KEY_SHA256)
        if not (key and matches and self._is_valid(key, entry)):
            raise _unknown()
        # Only the right secret may cause a read of the tenant.
        tenant = self._tenants.get(key.record.tenant).value
        if tenant is None:
            raise _unknown()
        return _principal(tenant, credential, key)

    def find(self, text: str) -> Principal | None:
        """Return the principal of a credential if memory holds all it takes; never wait.

        None does not mean that the credential is not valid: `authenticate` has to decide.
        """
        credential = Credential.parse(text)
        entry = self._keys.find_fresh(credential.key) if credential else None
        if not (credential and entry and entry.value):
            return None
        key = entry.value
        if not credential.matches(key.record.sha256) or not self._is_valid(key, entry):
            return None
        tenant = self._tenants.find_fresh(key.record.tenant)
        if tenant is None or tenant.value is None:
            return None
        return _principal(tenant.value, credential, key)

    def has_met(self, text: str) -> bool:
        """Return whether the credential was valid when its key was last read."""
        credential = Credential.parse(text)
        entry = self._keys.find(credential.key) if credential else None
        return bool(
            credential and entry and entry.value and credential.matches(entry.value.record.sha256)
        )

    def _is_valid(self, key: _DatedKey, entry: CacheEntry[_DatedKey]) -> bool:
        if key.record.revoked:
            return False
        # Expiry is in the store's time: its clock at the read, plus what has passed here since.
        now = key.read_at + timedelta(seconds=self._clock() - entry.read_at)
        return key.record.expires is None or now < key.record.expires

    def _read_key(self, key: str) -> _DatedKey | None:
        try:
            head, record = read_key(self._store, key)
        except UnknownKeyError:
            return None
        return _DatedKey(record, head.date)

    def _read_tenant(self, tenant: str) -> Tenant | None:
        try:
            return read_tenant(self._store, tenant)
        except (DeletedError, UnknownTenantError):
            return None


def _principal(tenant: Tenant, credential: Credential, key: _DatedKey) -> Principal:
    """Return a principal with all that its key allows, however the key was found."""
    return Principal(tenant.tenant, credential.key, tenant.limits, key.record.scope)


def _unknown() -> UnknownKeyError:
    return UnknownKeyError(
        "the API key is not valid: send Authorization: Bearer dti_ID_SECRET with a key that has "
        "neither expired nor been revoked"
    )
