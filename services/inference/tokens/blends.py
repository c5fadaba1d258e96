"""The blend cache, and the resolver of an image's placeholders into tokens and blends.

Each use of a cached blend looks up its tokens, so that no blend outlives them.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from dti_engine.errors import ConfigurationError
from dti_engine.text.tokens import LearnedToken, mean_tokens, slerp_tokens
from services import logs, metrics
from services.caching.lru_cache import ByteLRU
from services.caching.single_flight import SingleFlight
from services.contracts.generation import ImageSpec
from services.inference.tokens.cache import TokenCache
from services.inference.tokens.loader import CachedToken, Key, num_bytes_of
from services.ledger.ledger import Gather, gather_in_threads

CAPACITY_BYTES = 256 * 2**20

PLACEHOLDER = "<blend>"
"""The placeholder of every blend; a prompt binds it to a placeholder of its own."""

_BlendKey = tuple[str, tuple[tuple[str, float], ...]]
"""A tenant, and the digest and share of each token."""


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """A blend of tokens. `learned` stays the same object while the blend is cached."""

    learned: LearnedToken
    origin: dict[str, Any]
    """The tokens that it was made from, and their shares."""


@dataclass(frozen=True, slots=True, eq=False)
class _BlendEntry:
    learned: LearnedToken
    parts: frozenset[Key]

    @property
    def num_bytes(self) -> int:
        return num_bytes_of(self.learned)


class BlendCache:
    """Blends tokens of a token cache. Thread-safe."""

    def __init__(self, tokens: TokenCache, *, capacity_bytes: int = CAPACITY_BYTES) -> None:
        """Create an empty cache, which drops a blend when `tokens` drops one of its parts."""
        self._flights: SingleFlight[_BlendKey, LearnedToken] = SingleFlight()
        self._lock = threading.Lock()
        self._entries: ByteLRU[_BlendKey, _BlendEntry] = ByteLRU(capacity_bytes)
        self._blends_of: dict[Key, set[_BlendKey]] = {}
        self._tokens = tokens
        tokens.watch(self._drop_blends_of)

    def blend(self, tenant: str, parts: Sequence[tuple[str, float]]) -> Blend:
        """Return the blend of two or more tokens, each given by id or alias and a weight > 0.

        Raises:
            DTIError: As `TokenCache.get` for each token.
            ArtifactMismatchError: The tokens have different numbers of vectors.
            AntipodalError: The tokens have no mean.
            ConfigurationError: A weight is invalid.
        """
        tokens = [self._tokens.get(tenant, name) for name, _ in parts]
        return self.blend_tokens(tenant, tokens, [weight for _, weight in parts])

    def blend_tokens(
        self, tenant: str, tokens: Sequence[CachedToken], weights: Sequence[float]
    ) -> Blend:
        """Return the blend of tokens that the caller has just looked up. Raises as `blend`."""
        total = math.fsum(weights)
        shares = [weight / total for weight in weights]
        # By digests: a name may stand for another token tomorrow, and two names for the same one.
        key = tenant, tuple((t.sha256, share) for t, share in zip(tokens, shares, strict=True))
        parts = frozenset((tenant, token.token) for token in tokens)
        with self._lock:
            entry = self._entries.get(key)
        learned = (
            entry.learned
            if entry
            else self._flights.run(key, lambda: self._make(key, parts, tokens))
        )
        origins = [t.origin | {"share": share} for t, share in zip(tokens, shares, strict=True)]
        return Blend(learned, {"blend_of": origins})

    def _make(
        self, key: _BlendKey, parts: frozenset[Key], tokens: Sequence[CachedToken]
    ) -> LearnedToken:
        with self._lock:
            if entry := self._entries.get(key):
                return entry.learned
        learned = _blend([token.learned for token in tokens], [share for _, share in key[1]])
        with self._lock:
            # A part may have been dropped since it was looked up: then nothing would drop this
            # blend. A part that is dropped later takes it along, as that waits for this lock.
            if not any(self._tokens.is_known_bad(*part) for part in parts):
                self._store(key, _BlendEntry(learned, parts))
        return learned

    def _store(self, key: _BlendKey, entry: _BlendEntry) -> None:
        for part in entry.parts:
            self._blends_of.setdefault(part, set()).add(key)
        for evicted_key, evicted in self._entries.put(key, entry):
            self._remove_from_index(evicted_key, evicted)
        self._report_size()

    def _drop_blends_of(self, token: Key) -> None:
        with self._lock:
            for key in list(self._blends_of.get(token, ())):
                if entry := self._entries.pop(key, None):
                    self._remove_from_index(key, entry)
            self._report_size()

    def _remove_from_index(self, key: _BlendKey, entry: _BlendEntry) -> None:
        for part in entry.parts:
            keys = self._blends_of[part]
            keys.discard(key)
            if not keys:
                del self._blends_of[part]

    def _report_size(self) -> None:
        recorder = metrics.current()
        recorder.set("dti_token_cache_entries", len(self._entries), kind="blend")
        recorder.set("dti_token_cache_bytes", self._entries.currsize, kind="blend")


def _blend(tokens: Sequence[LearnedToken], shares: Sequence[float]) -> LearnedToken:
    if len(tokens) == 2:
        first, second = tokens
        return slerp_tokens(first, second, shares[1], placeholder=PLACEHOLDER)
    return mean_tokens(list(zip(tokens, shares, strict=True)), placeholder=PLACEHOLDER)


@dataclass(frozen=True, slots=True)
class ResolvedPlaceholders:
    """The tokens of an image, by placeholder."""

    tokens: dict[str, LearnedToken]
    origins: dict[str, JsonValue]
    """The token of each placeholder, or the parts of its blend, for the settings of the image."""


class PlaceholderResolver:
    """Resolves the placeholders of images of one model. Thread-safe."""

    def __init__(
        self, tokens: TokenCache, blends: BlendCache, gather: Gather = gather_in_threads
    ) -> None:
        """Create a resolver; `gather` maps a function over names concurrently."""
        self._tokens, self._blends, self._gather = tokens, blends, gather

    def resolve(self, tenant: str, image: ImageSpec) -> ResolvedPlaceholders:
        """Return the tokens and blends that an image's placeholders stand for.

        Each name is looked up once, so that it stands for one token in all of the image, and all
        names concurrently.

        Raises:
            DTIError: The first error, in the order of the image's names, of `TokenCache.get` and
                `BlendCache.blend`.
            ConfigurationError: A placeholder stands for two things.
        """
        if ambiguous := image.tokens.keys() & image.blends.keys():
            raise ConfigurationError(
                f"{', '.join(sorted(ambiguous))} is given as a token and as a blend: give it as one"
            )
        part_names = [part.token for parts in image.blends.values() for part in parts]
        names = list(dict.fromkeys([*image.tokens.values(), *part_names]))
        log_ids = logs.ids()

        def get(name: str) -> CachedToken:
            # Log context is per thread, and `gather` runs this in threads of its own.
            with logs.bound(**log_ids):
                return self._tokens.get(tenant, name)

        found = dict(zip(names, self._gather(get, names), strict=True))
        resolved = ResolvedPlaceholders({}, {})
        for placeholder, name in image.tokens.items():
            resolved.tokens[placeholder] = found[name].learned
            resolved.origins[placeholder] = {**found[name].origin}
        for placeholder, parts in image.blends.items():
            tokens, weights = [found[p.token] for p in parts], [p.weight for p in parts]
            blend = self._blends.blend_tokens(tenant, tokens, weights)
            resolved.tokens[placeholder] = blend.learned
            resolved.origins[placeholder] = blend.origin
        return resolved
