"""The token cache of an engine: bounded by bytes, with timed revalidation against the store.

A cached token is never used for more than a minute without the store confirming that it still
exists. Its age, counted from the last confirmation, decides what a lookup does (defaults):

    up to 15 s   use it at once
    up to 30 s   use it at once, and revalidate it in the background
    up to 60 s   revalidate it first; if the store does not answer soon, use it all the same
    later        revalidate it first; if the store does not answer, fail

A token that turns out to be deleted is dropped, and the watchers of the cache are notified. So is a
token that was not used for 5 minutes: it may have been erased, and no lookup would find that out.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from weakref import WeakValueDictionary

from dti_engine.errors import ArtifactFormatError, ArtifactMismatchError, DTIError
from dti_engine.text.tokens import LearnedToken
from services import metrics
from services.caching.failures import CircuitBreaker, NegativeCache
from services.caching.lru_cache import ByteLRU
from services.caching.single_flight import SingleFlight, wait
from services.errors import (
    DamagedRecordError,
    DeletedError,
    InvalidIdError,
    UnavailableError,
    UnknownJobError,
)
from services.inference.tokens.loader import (
    AliasLookup,
    CachedToken,
    Key,
    ModelSignature,
    TokenLoader,
    num_bytes_of,
)
from services.ledger.ids import is_token_id
from services.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class TokenLifetimes:
    """The lifetimes of the store's answers, in seconds."""

    fresh_s: float = 30
    """A token is used at once; from half of this age on, it is revalidated in the background."""
    max_stale_s: float = 60
    """An older token is not used without a confirmation from the store."""
    confirm_timeout_s: float = 2
    """How long a lookup waits for a confirmation before it counts the store as unavailable."""
    retry_s: float = 5
    """The time between two requests to an unavailable store."""
    unknown_s: float = 2
    """How long an unknown token stays unknown. Other errors, which last, are kept for `fresh_s`."""
    unused_s: float = 300
    """A token that is not used for this long is dropped, because it may have been erased."""


CAPACITY_BYTES = 2 * 2**30
"""Room for more than 100,000 tokens of SDXL."""

FORGET_INTERVAL_S = 60.0
"""The time between two looks for what was not used for a while."""

_THREADS = 4
"""Threads that revalidate: as many as a store keeps connections for urgent requests."""

_PERMANENT_ERRORS = (
    UnknownJobError,
    DeletedError,
    DamagedRecordError,
    ArtifactFormatError,
    ArtifactMismatchError,
)


@dataclass(slots=True, eq=False)
class _TokenEntry:
    token: CachedToken
    etag: str
    confirmed_at: float
    """When the last request was sent that the store confirmed the token in."""

    @property
    def num_bytes(self) -> int:
        return num_bytes_of(self.token.learned)


class TokenCache:
    """The tokens of one model, of all tenants. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        signature: ModelSignature,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        lifetimes: TokenLifetimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache. `clock` returns the time in seconds."""
        self._loader = TokenLoader(ledger, signature)
        self._lifetimes = lifetimes = lifetimes or TokenLifetimes()
        self._clock = clock
        self._aliases = AliasLookup(
            ledger, self._find, max_stale_s=lifetimes.max_stale_s, clock=clock
        )
        self._flights: SingleFlight[Key, _TokenEntry] = SingleFlight(_THREADS)
        self._lock = threading.Lock()
        # A token in use is revalidated, which stores it again: only unused ones expire.
        self._entries: ByteLRU[Key, _TokenEntry] = ByteLRU(
            capacity_bytes, ttl_s=lifetimes.unused_s, clock=clock
        )
        self._errors: NegativeCache[Key] = NegativeCache(clock)
        self._in_use: WeakValueDictionary[Key, LearnedToken] = WeakValueDictionary()
        """Tokens by tenant and digest: one that is evicted while in use is found here again."""
        self._watchers: list[Callable[[Key], None]] = []
        self._breaker = CircuitBreaker(lifetimes.retry_s, clock)
        self._closed = threading.Event()

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens in the cache."""
        with self._lock:
            return len(self._entries)

    def watch(self, on_drop: Callable[[Key], None]) -> None:
        """Call `on_drop` whenever a token turns out to be deleted, or otherwise unusable."""
        self._watchers.append(on_drop)

    def get(self, tenant: str, name: str) -> CachedToken:
        """Return a tenant's token by its id, or the newest token of a subject by its alias.

        Raises:
            UnknownJobError, DeletedError, InvalidIdError: There is no such token.
            DamagedRecordError, ArtifactFormatError: The token is damaged.
            ArtifactMismatchError: The token was trained with another model.
            UnavailableError: The store has not answered for too long.
        """
        if is_token_id(name):
            return self._find(tenant, name)
        try:
            return self._find(tenant, self._aliases.newest(tenant, name))
        except (DeletedError, UnknownJobError):
            # The newest token was deleted after the alias was looked up; an older one may exist.
            return self._find(tenant, self._aliases.newest(tenant, name, refresh=True))

    def is_known_bad(self, tenant: str, token: str) -> bool:
        """Return whether the last lookup of a token found it deleted or otherwise unusable."""
        return (tenant, token) in self._errors

    def forget_unused(self) -> None:
        """Drop tokens and aliases that were not used for a while."""
        with self._lock:
            unused = [key for key, _ in self._entries.expire()]
            self._report_size()
        for key in unused:
            self._notify(key)
        self._aliases.forget_old()

    def forget_in_background(self) -> None:
        """Call `forget_unused` every minute, on a thread of its own, until the cache is closed."""

        def run() -> None:
            while not self._closed.wait(FORGET_INTERVAL_S):
                self.forget_unused()

        threading.Thread(target=run, name="forget", daemon=True).start()

    def close(self) -> None:
        """Stop revalidating and forgetting in the background."""
        self._closed.set()
        self._flights.close()

    def _find(self, tenant: str, token: str) -> CachedToken:
        """Return a token by its id, and count the lookup."""
        try:
            outcome, entry = self._look_up((tenant, token))
        except DTIError as error:
            metrics.current().count("dti_token_cache_requests_total", outcome=_outcome(error))
            raise
        metrics.current().count("dti_token_cache_requests_total", outcome=outcome)
        return entry.token

    def _look_up(self, key: Key) -> tuple[str, _TokenEntry]:
        """Return an entry, and how it was found."""
        with self._lock:
            entry, now = self._entries.get(key), self._clock()
        if entry is None:
            self._errors.check(key)
            return "miss", self._flights.run(key, lambda: self._load_once(key))
        age = now - entry.confirmed_at
        if age < self._lifetimes.fresh_s:
            if age >= self._lifetimes.fresh_s / 2 and self._breaker.allows_request():
                self._revalidate_in_background(key, entry)
            return "hit", entry
        if not self._breaker.allows_request():
            return self._serve_stale(key, entry)
        if age < self._lifetimes.max_stale_s:
            return self._revalidate_soon(key, entry)
        return "revalidated", self._flights.run(key, lambda: self._revalidate(key, entry))

    def _revalidate_soon(self, key: Key, entry: _TokenEntry) -> tuple[str, _TokenEntry]:
        """Revalidate a token that is no longer fresh, or serve it stale if that takes too long."""
        try:
            # The future is in no variable: an error of it would refer to this frame, and so keep a
            # deleted token in memory until the next garbage collection.
            return "revalidated", wait(
                self._revalidate_in_background(key, entry), self._lifetimes.confirm_timeout_s
            )
        except TimeoutError:
            self._breaker.record_failure()
        except (CancelledError, UnavailableError):
            pass
        return self._serve_stale(key, entry)

    def _serve_stale(self, key: Key, entry: _TokenEntry) -> tuple[str, _TokenEntry]:
        """Return an entry without a confirmation, unless it is too old for that."""
        if self._clock() - entry.confirmed_at < self._lifetimes.max_stale_s:
            return "stale", entry
        raise _unconfirmed(key)

    def _revalidate_in_background(self, key: Key, entry: _TokenEntry) -> "Future[_TokenEntry]":
        submitted_at = self._clock()

        def revalidate() -> _TokenEntry:
            # If the store has failed while this call was queued, it would only wait for a timeout
            # in its turn, and keep the thread from others.
            if self._breaker.opened_since(submitted_at):
                raise _unconfirmed(key)
            return self._revalidate(key, entry)

        return self._flights.submit(key, revalidate)

    def _revalidate(self, key: Key, entry: _TokenEntry) -> _TokenEntry:
        """Ask the store whether a token is unchanged, and load it again if not."""
        # Before the request: the token may be deleted at any moment after the store has read it.
        asked_at = self._clock()
        try:
            unchanged = self._loader.is_unchanged(*key, entry.etag)
        except UnavailableError:
            self._breaker.record_failure()
            raise
        self._breaker.record_success()
        if not unchanged:
            return self._load(key)
        entry.confirmed_at = asked_at
        self._store(key, entry)
        return entry

    def _load_once(self, key: Key) -> _TokenEntry:
        """Load a token, unless an earlier flight ended between the lookup and this call."""
        with self._lock:
            entry = self._entries.get(key)
        if entry and self._clock() - entry.confirmed_at < self._lifetimes.fresh_s:
            return entry
        return self._load(key)

    def _load(self, key: Key) -> _TokenEntry:
        asked_at = self._clock()
        try:
            loaded = self._loader.load(*key)
        except _PERMANENT_ERRORS as error:
            self._drop(key, error)
            raise
        tenant, token = key
        with self._lock:
            # The same object as before if an image still uses it: prompts that were encoded with it
            # are found by the identity of the token.
            learned = self._in_use.setdefault((tenant, loaded.sha256), loaded.learned)
        entry = _TokenEntry(CachedToken(token, loaded.sha256, learned), loaded.etag, asked_at)
        self._store(key, entry)
        return entry

    def _store(self, key: Key, entry: _TokenEntry) -> None:
        with self._lock:
            unused = [each for each, _ in self._entries.expire()]
            self._entries.put(key, entry)
            self._errors.discard(key)
            self._report_size()
        for each in unused:
            self._notify(each)

    def _drop(self, key: Key, error: DTIError) -> None:
        """Remove a token, and remember its error for a while."""
        # A token that is unknown now may be committed at any moment; the other errors last.
        is_unknown = isinstance(error, UnknownJobError)
        ttl_s = self._lifetimes.unknown_s if is_unknown else self._lifetimes.fresh_s
        with self._lock:
            self._entries.pop(key, None)
            self._errors.add(key, error, ttl_s)
            self._report_size()
        self._notify(key)

    def _notify(self, key: Key) -> None:
        # Outside of the lock: a watcher has a lock of its own, under which it looks tokens up.
        for on_drop in self._watchers:
            on_drop(key)

    def _report_size(self) -> None:
        recorder = metrics.current()
        recorder.set("dti_token_cache_entries", len(self._entries), kind="token")
        recorder.set("dti_token_cache_bytes", self._entries.currsize, kind="token")


def _unconfirmed(key: Key) -> UnavailableError:
    return UnavailableError(
        f"it is unknown whether token {key[1]} still exists, because the store does not answer: "
        "ask again later"
    )


def _outcome(error: Exception) -> str:
    if isinstance(error, UnknownJobError | DeletedError | InvalidIdError):
        return "gone"
    if isinstance(error, DamagedRecordError | ArtifactFormatError):
        return "damaged"
    if isinstance(error, ArtifactMismatchError):
        return "wrong_model"
    return "unavailable" if isinstance(error, UnavailableError) else metrics.OTHER
