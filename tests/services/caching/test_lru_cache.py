"""The byte-bounded LRU cache: eviction by size and by age."""

from dataclasses import dataclass

from services.caching.lru_cache import ByteLRU


@dataclass(frozen=True)
class Value:
    num_bytes: int


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_least_recently_used_entry_is_evicted_and_returned() -> None:
    cache: ByteLRU[str, Value] = ByteLRU(10)
    assert cache.put("a", Value(4)) == cache.put("b", Value(4)) == []
    assert cache.get("a") == Value(4)
    assert cache.put("c", Value(4)) == [("b", Value(4))]
    assert (cache.get("b"), len(cache), cache.currsize) == (None, 2, 8)


def test_a_value_that_is_too_large_is_returned_and_evicts_no_other() -> None:
    cache: ByteLRU[str, Value] = ByteLRU(10)
    cache.put("a", Value(4))
    assert cache.put("b", Value(11)) == [("b", Value(11))]
    assert cache.get("a") == Value(4)


def test_a_value_replaces_the_one_before_it() -> None:
    cache: ByteLRU[str, Value] = ByteLRU(10)
    cache.put("a", Value(4))
    assert cache.put("a", Value(9)) == []
    assert (cache.get("a"), cache.currsize) == (Value(9), 9)


def test_an_entry_expires_unless_it_is_stored_again() -> None:
    clock = Clock()
    cache: ByteLRU[str, Value] = ByteLRU(10, ttl_s=5, clock=clock)
    cache.put("a", Value(1))
    cache.put("b", Value(1))
    clock.now += 4
    cache.put("b", Value(1))
    clock.now += 1
    assert (cache.get("a"), cache.get("b"), len(cache)) == (None, Value(1), 1)
