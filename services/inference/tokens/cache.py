"""Tokens in memory, so that an image rarely waits for the store: bounded, each tenant's apart, and
never used for longer than a minute without the store having said that they still stand.

What is deleted is dropped when that is found out, and whoever watches hears of it.

For how long what the store said of a token holds.

By default, from when it was asked:

    up to 15 s   used at once
    up to 30 s   used at once, and the store is asked meanwhile
    up to 60 s   the store is asked first; if it does not answer soon, used all the same
    later        the store is asked first; no answer, no token
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
from services.caching.lru_cache import ByteLRU
from services.caching.single_flight import SingleFlight, wait
from services.errors import (
    DamagedRecordError,
    DeletedError,
    InvalidIdError,
    UnavailableError,
    UnknownJobError,
)
from services.inference.tokens.loader import AliasLookup, Fit, TokenLoader
from services.inference.tokens.negative_cache import CircuitBreaker, NegativeCache
from services.inference.tokens.token import CachedToken, Key, size_of
from services.ledger.ids import is_token
from services.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class TokenLifetimes:
    """For how long what the store said holds, in seconds."""

    good_for: float = 30
    """Then it is asked again before a token is used; from the half of it on, while it is used."""
    limit: float = 60
    """Then nothing is used that it does not confirm."""
    patience: float = 2
    """For how long it is waited for until it counts as silent, before the limit."""
    retry: float = 5
    """While it is silent, it is asked again that often."""
    unknown: float = 2
    """That there is no such token. What else is wrong with one stays so, and is good as long as a
    token."""
    unused: float = 3600
    """Tokens that nobody asked for in this time go, for some of them may have been deleted."""


CAPACITY = 2 * 2**30
"""Bytes: more than 100,000 tokens of SDXL."""

_THREADS = 4
"""That ask whether tokens still stand: as many as a store has connections for what is urgent."""

_REFUSED = (
    UnknownJobError,
    DeletedError,
    DamagedRecordError,
    ArtifactFormatError,
    ArtifactMismatchError,
)


@dataclass(slots=True, eq=False)
class _Kept:
    known: CachedToken
    etag: str
    asked: float
    """When the store was asked that last said that it stands."""

    @property
    def num_bytes(self) -> int:
        return size_of(self.known.learned)


class TokenCache:
    """One model's tokens, of all tenants. Safe to use from many threads."""

    def __init__(
        self,
        ledger: Ledger,
        fit: Fit,
        *,
        capacity: int = CAPACITY,
        freshness: TokenLifetimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`capacity` in bytes, `clock` in seconds."""
        self._fetcher = TokenLoader(ledger, fit)
        self._freshness = freshness = freshness or TokenLifetimes()
        self._clock = clock
        self._names = AliasLookup(ledger, self._find, in_trouble=freshness.limit, clock=clock)
        self._flights: SingleFlight[Key, _Kept] = SingleFlight(_THREADS)
        self._lock = threading.Lock()
        self._kept: ByteLRU[Key, _Kept] = ByteLRU(capacity)
        self._refusals = NegativeCache(clock)
        self._rows: WeakValueDictionary[Key, LearnedToken] = WeakValueDictionary()
        """By tenant and digest, for as long as somebody uses them: what comes again is the same."""
        self._watching: list[Callable[[Key], None]] = []
        self._silence = CircuitBreaker(freshness.retry, clock)

    @property
    def num_tokens(self) -> int:
        """That are kept."""
        return len(self._kept)

    def watch(self, dropped: Callable[[Key], None]) -> None:
        """Have this called when a token turns out to be deleted, or otherwise refused."""
        self._watching.append(dropped)

    def get(self, tenant: str, name: str) -> CachedToken:
        """A tenant's token, by its id or by the client's own name of its subject: then the newest.

        Raises: UnknownJobError, DeletedError, InvalidIdError; DamagedRecordError and
            ArtifactFormatError for damaged ones; ArtifactMismatchError for one of other weights;
            UnavailableError if the store has said nothing for too long.
        """
        if is_token(name):
            return self._find(tenant, name)
        try:
            return self._find(tenant, self._names.newest(tenant, name))
        except (DeletedError, UnknownJobError):  # Since; the one before it may stand.
            return self._find(tenant, self._names.newest(tenant, name, anew=True))

    def refuses(self, tenant: str, token: str) -> bool:
        """Whether it was found a short while ago that there is no such token, or no more."""
        return (tenant, token) in self._refusals

    def close(self) -> None:
        """Ask the store no more in the background."""
        self._flights.close()

    def _find(self, tenant: str, token: str) -> CachedToken:
        """By its id."""
        try:
            outcome, kept = self._look_up((tenant, token))
        except DTIError as error:
            metrics.current().count("dti_token_cache_requests_total", outcome=_outcome(error))
            raise
        metrics.current().count("dti_token_cache_requests_total", outcome=outcome)
        return kept.known

    def _look_up(self, key: Key) -> tuple[str, _Kept]:
        """How it was found, and the token."""
        with self._lock:
            kept, now = self._kept.get(key), self._clock()
        if kept is None:
            self._refusals.check(key)
            return "miss", self._flights.join(key, lambda: self._fetch_once(key))
        age = now - kept.asked
        if age < self._freshness.good_for:
            if age >= self._freshness.good_for / 2 and self._silence.allows():
                self._send(key, kept)
            return "hit", kept
        if not self._silence.allows():
            return self._stale(key, kept)
        if age < self._freshness.limit:
            return self._confirmed_soon(key, kept)
        return "revalidated", self._flights.join(key, lambda: self._confirm(key, kept))

    def _confirmed_soon(self, key: Key, kept: _Kept) -> tuple[str, _Kept]:
        """Between good and too old."""
        try:
            return "revalidated", wait(self._send(key, kept), self._freshness.patience)
        except TimeoutError:
            self._silence.begin()
        except (CancelledError, UnavailableError):
            pass
        return self._stale(key, kept)

    def _stale(self, key: Key, kept: _Kept) -> tuple[str, _Kept]:
        """While the store is silent."""
        if self._clock() - kept.asked < self._freshness.limit:
            return "stale", kept
        raise _unconfirmed(key)

    def _send(self, key: Key, kept: _Kept) -> "Future[_Kept]":
        """Have it confirmed in the background, unless the store falls silent until its turn."""
        sent = self._clock()

        def confirm() -> _Kept:
            if self._silence.has_begun_since(sent):
                raise _unconfirmed(key)
            return self._confirm(key, kept)

        return self._flights.send(key, confirm)

    def _confirm(self, key: Key, kept: _Kept) -> _Kept:
        """Ask whether it still stands; if it has changed, read it. In a flight."""
        asked = self._clock()
        try:
            stands = self._fetcher.stands(*key, kept.etag)
        except UnavailableError:
            self._silence.begin()
            raise
        self._silence.end()
        if not stands:
            return self._fetch(key)
        kept.asked = asked
        self._keep(key, kept)
        return kept

    def _fetch_once(self, key: Key) -> _Kept:
        """In a flight, before which another may have landed."""
        with self._lock:
            kept = self._kept.get(key)
        if kept and self._clock() - kept.asked < self._freshness.good_for:
            return kept
        return self._fetch(key)

    def _fetch(self, key: Key) -> _Kept:
        asked = self._clock()
        try:
            fetched = self._fetcher.fetch(*key)
        except _REFUSED as error:
            self._refuse(key, error)
            raise
        tenant, token = key
        with self._lock:
            learned = self._rows.setdefault((tenant, fetched.sha256), fetched.learned)
        kept = _Kept(CachedToken(token, fetched.sha256, learned), fetched.etag, asked)
        self._keep(key, kept)
        return kept

    def _keep(self, key: Key, kept: _Kept) -> None:
        with self._lock:
            self._kept.put(key, kept)
            self._refusals.discard(key)
            # Whoever uses one has it confirmed, so that the one unused for longest is the oldest.
            end = self._clock() - self._freshness.unused
            while (oldest := self._kept.oldest()) and oldest[1].asked < end:
                self._kept.pop(oldest[0])
            self._show()

    def _refuse(self, key: Key, error: DTIError) -> None:
        """Drop it, and remember why for a while."""
        unknown = isinstance(error, UnknownJobError)
        seconds = self._freshness.unknown if unknown else self._freshness.good_for
        with self._lock:
            self._kept.pop(key)
            self._refusals.add(key, error, seconds)
            self._show()
        for dropped in self._watching:
            dropped(key)

    def _show(self) -> None:
        counting = metrics.current()
        counting.set("dti_token_cache_entries", len(self._kept), kind="token")
        counting.set("dti_token_cache_bytes", self._kept.num_bytes, kind="token")


def _unconfirmed(key: Key) -> UnavailableError:
    return UnavailableError(
        f"whether token {key[1]} still stands cannot be found out, because the store does not "
        "answer: ask again later"
    )


def _outcome(error: Exception) -> str:
    if isinstance(error, UnknownJobError | DeletedError | InvalidIdError):
        return "gone"
    if isinstance(error, DamagedRecordError | ArtifactFormatError):
        return "damaged"
    if isinstance(error, ArtifactMismatchError):
        return "foreign"
    return "unavailable" if isinstance(error, UnavailableError) else metrics.OTHER
