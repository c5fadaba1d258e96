"""While the circuit breaker is open, one request in a while reaches the store."""

from services.caching.failures import CircuitBreaker


class _Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_closed_breaker_allows_every_request() -> None:
    breaker = CircuitBreaker(5, _Clock())
    assert all(breaker.allows_request() for _ in range(3))
    assert not breaker.opened_since(0)


def test_an_open_breaker_allows_one_request_in_five_seconds() -> None:
    clock = _Clock()
    breaker = CircuitBreaker(5, clock)
    breaker.record_failure()
    for _ in range(3):
        assert not breaker.allows_request()
        clock.seconds += 5
        assert [breaker.allows_request() for _ in range(3)] == [True, False, False]


def test_a_success_closes_the_breaker() -> None:
    clock = _Clock()
    breaker = CircuitBreaker(5, clock)
    breaker.record_failure()
    breaker.record_success()
    assert all(breaker.allows_request() for _ in range(3))
    assert not breaker.opened_since(0)
    clock.seconds += 100
    assert all(breaker.allows_request() for _ in range(3))


def test_a_breaker_says_whether_it_opened_after_a_given_time() -> None:
    clock = _Clock()
    breaker = CircuitBreaker(5, clock)
    clock.seconds += 1
    breaker.record_failure()
    clock.seconds += 5
    breaker.record_failure()  # still
    assert breaker.opened_since(100)
    assert not breaker.opened_since(101)
