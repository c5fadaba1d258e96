"""Trying again where the store did not answer, within a deadline."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from services.errors import OutcomeUnknownError, UnavailableError

T = TypeVar("T")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
"""Seconds. "Full jitter": pauses are uniform in [0, first * 2^n]; AWS Architecture Blog, 2015."""


class TransientError(Exception):
    """One attempt failed in a way that may pass; `applied`: a write may have been done all the
    same, and only its answer was lost.
    """

    def __init__(self, message: str, *, applied: bool) -> None:
        super().__init__(message)
        self.applied = applied


def persist(
    attempt: Callable[[], T],
    what: str,
    *,
    attempts: int,
    deadline: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[float, float], float] = random.uniform,
) -> T:
    """Try until it succeeds or fails for good, at most `attempts` times, the last of which begins
    within `deadline` seconds.

    Raises: UnavailableError when all attempts were transient failures, or OutcomeUnknownError if
    one of them may have been applied; and what an attempt raises besides.
    """
    begun = clock()
    pause = _FIRST_PAUSE
    made, applied = 0, False
    while True:
        try:
            made += 1
            return attempt()
        except TransientError as error:
            applied = applied or error.applied
            wait = jitter(0, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            spent = clock() - begun
            if made >= attempts or spent + wait > deadline:
                kind = OutcomeUnknownError if applied else UnavailableError
                raise kind(
                    f"{what}: the store did not do it in {made} attempts and {spent:.1f} s, at "
                    f"last: {error}; {_advice(applied)}"
                ) from error
            sleep(wait)


def _advice(applied: bool) -> str:
    if applied:
        return "it may have been done all the same: read before trying again"
    return "nothing was changed: try again later"
