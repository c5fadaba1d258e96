"""Who it is that shows a credential.

A wrong secret and an id that there is not are told apart by nobody: the same error after the same
one read and the same comparison; whether a tenant was deleted is looked up only for the right
secret. What was read is good for 30 seconds, so that a revoked key, a deleted tenant and new limits
hold everywhere within that. While the store does not answer, keys that were read in the last 5
minutes go on, and no others do.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.auth.credentials import NOBODY, Credential, KeyRecord
from services.auth.keys import read_key
from services.auth.tenants import Limits, Tenant, read_tenant
from services.caching.stale_while_error import MAX_ENTRIES, CacheEntry, StaleWhileErrorCache
from services.errors import DeletedError, UnknownKeyError, UnknownTenantError
from services.storage.interface import Store

REMEMBER = 30.0
IN_TROUBLE = 300.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and what it may use."""

    tenant: str
    key: str
    """The id of the key that was shown."""
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Seen:
    """A key, and what the store's clock said when it was read."""

    record: KeyRecord
    date: datetime


class Authenticator:
    """Checks credentials; safe to share between threads. `store` best gives up early, as a ledger's
    `leases` does: many may wait for one read.
    """

    def __init__(
        self,
        store: Store,
        remember: float = REMEMBER,
        clock: Callable[[], float] = time.monotonic,
        *,
        entries: int = MAX_ENTRIES,
    ) -> None:
        self._store = store
        self._clock = clock
        self._keys: StaleWhileErrorCache[_Seen] = StaleWhileErrorCache(
            self._read_key, ttl_s=remember, max_stale_s=IN_TROUBLE, max_entries=entries, clock=clock
        )
        self._tenants: StaleWhileErrorCache[Tenant] = StaleWhileErrorCache(
            self._read_tenant,
            ttl_s=remember,
            max_stale_s=IN_TROUBLE,
            max_entries=entries,
            clock=clock,
        )

    def caller(self, credential: str) -> Principal:
        """Raises: UnknownKeyError for all that lets nobody in; UnavailableError if the store does
        not say.
        """
        if (shown := Credential.parse(credential)) is None:
            raise _unknown()
        remembered = self._keys.get(shown.key)
        seen = remembered.value
        proven = shown.proves(seen.record.sha256 if seen else NOBODY)
        if not (seen and proven and self._holds(seen, remembered)):
            raise _unknown()
        tenant = self._tenants.get(seen.record.tenant).value
        if tenant is None:
            raise _unknown()
        return Principal(tenant.tenant, shown.key, tenant.limits)

    def _holds(self, seen: _Seen, remembered: CacheEntry[_Seen]) -> bool:
        if seen.record.revoked:
            return False
        # The store's clock goes on as ours does.
        now = seen.date + timedelta(seconds=self._clock() - remembered.read_at)
        return seen.record.expires is None or now < seen.record.expires

    def _read_key(self, key: str) -> _Seen | None:
        try:
            head, record = read_key(self._store, key)
        except UnknownKeyError:
            return None
        return _Seen(record, head.date)

    def _read_tenant(self, tenant: str) -> Tenant | None:
        try:
            return read_tenant(self._store, tenant)
        except (DeletedError, UnknownTenantError):
            return None


def _unknown() -> UnknownKeyError:
    return UnknownKeyError(
        "no valid key was shown: send Authorization: Bearer dti_ID_SECRET, with a key that was "
        "neither revoked nor has expired"
    )
