"""A store that does not answer is asked by one, now and then."""

from services.inference.tokens.negative_cache import CircuitBreaker


class _Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_store_that_answers_is_asked_by_all() -> None:
    silence = CircuitBreaker(5, _Clock())
    assert all(silence.allows() for _ in range(3))
    assert not silence.has_begun_since(0)


def test_while_it_is_silent_one_asks_in_five_seconds_whatever_becomes_of_it() -> None:
    clock = _Clock()
    silence = CircuitBreaker(5, clock)
    silence.begin()
    for _ in range(3):
        assert not silence.allows()
        clock.seconds += 5
        assert [silence.allows() for _ in range(3)] == [True, False, False]


def test_once_it_answers_all_ask_again() -> None:
    clock = _Clock()
    silence = CircuitBreaker(5, clock)
    silence.begin()
    silence.end()
    assert all(silence.allows() for _ in range(3))
    assert not silence.has_begun_since(0)
    clock.seconds += 100
    assert all(silence.allows() for _ in range(3))


def test_who_asks_a_silent_store_knows_it_from_those_who_asked_before() -> None:
    clock = _Clock()
    silence = CircuitBreaker(5, clock)
    clock.seconds += 1
    silence.begin()
    clock.seconds += 5
    silence.begin()  # still
    assert silence.has_begun_since(100)
    assert not silence.has_begun_since(101)
