"""The token bucket, with a clock that only the tests move."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from services.auth.rate_limit import RateLimiter
from services.auth.tenants import Limits

_LIMITS = Limits(requests_per_second=2, burst=4)


@dataclass
class Clock:
    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


def _acquired(rates: RateLimiter, tenant: str, limits: Limits = _LIMITS) -> int:
    """Return how many requests pass at once."""
    count = 0
    while not rates.acquire(tenant, limits):
        count += 1
    return count


def test_a_burst_is_followed_by_the_rate() -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    assert _acquired(rates, "acme") == 4
    clock.seconds += 1
    assert _acquired(rates, "acme") == 2
    clock.seconds += 1000
    assert _acquired(rates, "acme") == 4


def test_a_request_is_admitted_after_the_returned_wait() -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    _acquired(rates, "acme")
    wait = rates.acquire("acme", _LIMITS)
    assert wait == pytest.approx(0.5)
    clock.seconds += wait - 0.01
    assert rates.acquire("acme", _LIMITS) == pytest.approx(0.01)
    clock.seconds += 0.011
    assert _acquired(rates, "acme") == 1


def test_a_refused_request_does_not_prolong_the_wait() -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    _acquired(rates, "acme")
    assert [rates.acquire("acme", _LIMITS) for _ in range(20)] == [pytest.approx(0.5)] * 20


def test_tenants_have_separate_buckets() -> None:
    rates = RateLimiter(Clock())
    assert _acquired(rates, "acme") == 4
    assert _acquired(rates, "other") == 4


def test_new_limits_apply_at_once() -> None:
    clock = Clock()
    rates = RateLimiter(clock)
    _acquired(rates, "acme")
    clock.seconds += 1000
    assert _acquired(rates, "acme", Limits(requests_per_second=1, burst=1)) == 1
    assert rates.acquire("acme", Limits(requests_per_second=10, burst=1)) == pytest.approx(0.1)


def test_the_buckets_are_an_lru_of_bounded_size() -> None:
    rates = RateLimiter(Clock(), max_tenants=10)
    _acquired(rates, "busy")
    for number in range(100):
        rates.acquire(f"t{number}", _LIMITS)
        assert rates.acquire("busy", _LIMITS) > 0
    assert len(rates._buckets._buckets) == 10


def test_concurrent_requests_do_not_exceed_the_burst() -> None:
    rates = RateLimiter(Clock())
    limits = Limits(requests_per_second=1, burst=500)
    with ThreadPoolExecutor(8) as pool:
        acquired = list(pool.map(lambda _: rates.acquire("acme", limits), range(2000)))
    assert acquired.count(0.0) == 500
