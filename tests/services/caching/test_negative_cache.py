"""The negative cache: errors by key, for a while."""

import pytest

from services.caching.negative_cache import NegativeCache
from services.errors import UnknownJobError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_error_is_raised_until_it_expires_and_the_key_stays_known() -> None:
    clock = Clock()
    cache: NegativeCache[str] = NegativeCache(clock)
    cache.add("a", UnknownJobError("none"), 2)
    with pytest.raises(UnknownJobError, match="none"):
        cache.check("a")
    clock.now += 2
    cache.check("a")
    assert "a" in cache
    cache.discard("a")
    assert "a" not in cache


def test_each_caller_raises_an_error_of_its_own() -> None:
    cache: NegativeCache[str] = NegativeCache(Clock())
    cache.add("a", UnknownJobError("none"), 2)
    errors: list[Exception] = []
    for _ in range(2):
        with pytest.raises(UnknownJobError) as caught:
            cache.check("a")
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_the_number_of_errors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.caching.negative_cache._MAX_ENTRIES", 2)
    cache: NegativeCache[str] = NegativeCache(Clock())
    for key in "abc":
        cache.add(key, UnknownJobError(key), 2)
    assert [key in cache for key in "abc"] == [False, True, True]
