"""Blends of tokens, kept. Each asks for its tokens anew, so that it lives no longer than they.

What the placeholders of an image stand for: tokens, and blends of them.
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
from services.inference.tokens.token import CachedToken, Key, size_of
from services.ledger.ledger import Gather, in_threads

CAPACITY = 256 * 2**20
"""Bytes."""

PLACEHOLDER = "<blend>"
"""A blend's own: prompts call it as they like."""

_Recipe = tuple[str, tuple[tuple[str, float], ...]]
"""A tenant, and digests of tokens with their shares."""


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """A token made of others. `learned` is the same object for as long as it is kept."""

    learned: LearnedToken
    origin: dict[str, Any]
    """Which tokens it was made of, with their shares."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    learned: LearnedToken
    made_of: frozenset[Key]

    @property
    def num_bytes(self) -> int:
        return size_of(self.learned)


class BlendCache:
    """Blends tokens of a cache. Safe to use from many threads."""

    def __init__(self, tokens: TokenCache, *, capacity: int = CAPACITY) -> None:
        self._flights: SingleFlight[_Recipe, LearnedToken] = SingleFlight(1)
        self._lock = threading.Lock()
        self._kept: ByteLRU[_Recipe, _Kept] = ByteLRU(capacity)
        self._made_of: dict[Key, set[_Recipe]] = {}
        self._tokens = tokens
        tokens.watch(self._drop)

    def blend(self, tenant: str, parts: Sequence[tuple[str, float]]) -> Blend:
        """The blend of two or more tokens, each by id or name and with a weight > 0.

        Raises: as `TokenCache.get`, of any of them; ArtifactMismatchError if their numbers of
            vectors differ; AntipodalError if they have no mean; ConfigurationError for weights.
        """
        known = [self._tokens.get(tenant, name) for name, _ in parts]
        return self.blend_known(tenant, known, [weight for _, weight in parts])

    def blend_known(
        self, tenant: str, known: Sequence[CachedToken], weights: Sequence[float]
    ) -> Blend:
        """The same of tokens that the caller has just got."""
        total = math.fsum(weights)
        shares = [weight / total for weight in weights]
        recipe = tenant, tuple((k.sha256, s) for k, s in zip(known, shares, strict=True))
        made_of = frozenset((tenant, each.token) for each in known)
        with self._lock:
            kept = self._kept.get(recipe)
        learned = (
            kept.learned
            if kept
            else self._flights.join(recipe, lambda: self._make(recipe, made_of, known))
        )
        origins = [k.origin | {"share": s} for k, s in zip(known, shares, strict=True)]
        return Blend(learned, {"blend_of": origins})

    def _make(
        self, recipe: _Recipe, made_of: frozenset[Key], known: Sequence[CachedToken]
    ) -> LearnedToken:
        with self._lock:
            if kept := self._kept.get(recipe):
                return kept.learned
        shares = [share for _, share in recipe[1]]
        learned = _blended([each.learned for each in known], shares)
        with self._lock:
            # One that is refused after this is dropped after this: `_drop` waits for the lock.
            if not any(self._tokens.refuses(*key) for key in made_of):
                self._keep(recipe, _Kept(learned, made_of))
        return learned

    def _keep(self, recipe: _Recipe, kept: _Kept) -> None:
        for key in kept.made_of:
            self._made_of.setdefault(key, set()).add(recipe)
        for each, gone in self._kept.put(recipe, kept):
            self._forget(each, gone)
        self._show()

    def _drop(self, key: Key) -> None:
        """A token is gone, and with it all blends of it."""
        with self._lock:
            for recipe in list(self._made_of.get(key, ())):
                if kept := self._kept.pop(recipe):
                    self._forget(recipe, kept)
            self._show()

    def _forget(self, recipe: _Recipe, kept: _Kept) -> None:
        for key in kept.made_of:
            recipes = self._made_of[key]
            recipes.discard(recipe)
            if not recipes:
                del self._made_of[key]

    def _show(self) -> None:
        counting = metrics.current()
        counting.set("dti_token_cache_entries", len(self._kept), kind="blend")
        counting.set("dti_token_cache_bytes", self._kept.num_bytes, kind="blend")


def _blended(tokens: Sequence[LearnedToken], shares: Sequence[float]) -> LearnedToken:
    if len(tokens) == 2:
        first, second = tokens
        return slerp_tokens(first, second, shares[1], placeholder=PLACEHOLDER)
    return mean_tokens(list(zip(tokens, shares, strict=True)), placeholder=PLACEHOLDER)


@dataclass(frozen=True, slots=True)
class Resolved:
    """By placeholder."""

    tokens: dict[str, LearnedToken]
    origins: dict[str, JsonValue]
    """What each was made of, for the settings of the image."""


class PlaceholderResolver:
    """Resolves images of one model. Safe to use from many threads."""

    def __init__(
        self, tokens: TokenCache, blender: BlendCache, gather: Gather = in_threads
    ) -> None:
        self._tokens, self._blender, self._gather = tokens, blender, gather

    def resolve(self, tenant: str, spec: ImageSpec) -> Resolved:
        """Each name is looked up once, so that it stands for one token in all of the image; all
        of them side by side.

        Raises: as `TokenCache.get` and `BlendCache.blend`, in the order in which they are given;
            ConfigurationError if a placeholder stands for two things.
        """
        if twice := spec.tokens.keys() & spec.blends.keys():
            raise ConfigurationError(
                f"{', '.join(sorted(twice))} is given as a token and as a blend: give it as one"
            )
        parts = [part.token for blend in spec.blends.values() for part in blend]
        names = list(dict.fromkeys([*spec.tokens.values(), *parts]))
        ids = logs.ids()

        def get(name: str) -> CachedToken:
            with logs.bound(**ids):
                return self._tokens.get(tenant, name)

        known = dict(zip(names, self._gather(get, names), strict=True))
        resolved = Resolved({}, {})
        for placeholder, name in spec.tokens.items():
            resolved.tokens[placeholder] = known[name].learned
            resolved.origins[placeholder] = {**known[name].origin}
        for placeholder, blend in spec.blends.items():
            ends, weights = [known[each.token] for each in blend], [each.weight for each in blend]
            blended = self._blender.blend_known(tenant, ends, weights)
            resolved.tokens[placeholder] = blended.learned
            resolved.origins[placeholder] = blended.origin
        return resolved
