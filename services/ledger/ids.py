"""Ids of jobs, workers and tokens: unguessable, and sorted by time."""

import re
import secrets
import time
from collections.abc import Callable

from services.errors import InvalidIdError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_CHARACTER = f"[{_ALPHABET}]"
# 80 random bits: ids cannot be guessed, and do not collide between processes that never meet.
_TIME_LENGTH, _RANDOM_LENGTH = 10, 16
"""Characters of an id: 50 bits of milliseconds, then 80 random bits."""

_ID = f"{_CHARACTER}{{{_TIME_LENGTH + _RANDOM_LENGTH}}}"
_JOB = re.compile(_ID)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TOKEN = re.compile(rf"tok_({_ID})([0-9]{{2}})([0-9]{{5}})")


class Ids:
    """A generator of ids. Its clock is this host's: it decides the order of a list, and no more."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        randbits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._clock = clock
        self._randbits = randbits

    def job(self) -> str:
        """Return a job's id, which sorts before earlier ones: listings begin with the newest."""
        reversed_time = (1 << 5 * _TIME_LENGTH) - 1 - int(1000 * self._clock())
        return _encode(reversed_time, _TIME_LENGTH) + self._random_part()

    def worker(self) -> str:
        """Return an id for one worker session."""
        return self._random_part()

    def nonce(self) -> str:
        """Return a nonce, which makes the bytes of a record unique to one write."""
        return self._random_part()

    def _random_part(self) -> str:
        return _encode(self._randbits(5 * _RANDOM_LENGTH), _RANDOM_LENGTH)


def reverse_time_order(job: str) -> str:
    """Return a job's id with the order of time reversed, so that listings begin with the oldest.

    The function is its own inverse.
    """
    time, random = job[:_TIME_LENGTH], job[_TIME_LENGTH:]
    return "".join(_ALPHABET[31 - _ALPHABET.index(character)] for character in time) + random


def is_job_id(name: str) -> bool:
    """Return whether a name has the form of a job's id."""
    return _JOB.fullmatch(name) is not None


def is_tenant_name(name: str) -> bool:
    """Return whether a name has the form of a tenant's name."""
    return _TENANT.fullmatch(name) is not None


def is_token_id(name: str) -> bool:
    """Return whether a name has the form of a token's id."""
    return _TOKEN.fullmatch(name) is not None


def check_job_id(job: str) -> str:
    """Return a job's id unchanged, or raise InvalidIdError if it is malformed."""
    if not is_job_id(job):
        raise InvalidIdError(f"{job[:80]!r} is not a job's id, which has 26 digits and letters")
    return job


def check_tenant_name(tenant: str) -> str:
    """Return a tenant's name unchanged, or raise InvalidIdError if it is malformed."""
    if not is_tenant_name(tenant):
        raise InvalidIdError(
            f"{tenant[:80]!r} is not a tenant's name: give 1 to 63 of a-z, 0-9 and -, no - first"
        )
    return tenant


def token_id(job: str, round_: int, index: int) -> str:
    """Return the id of the token learned by an item in a round: it tells where it is stored."""
    return f"tok_{job}{round_:02d}{index:05d}"


def parse_token_id(token: str) -> tuple[str, int, int]:
    """Return a token's job, round and item index, or raise InvalidIdError."""
    if not (match := _TOKEN.fullmatch(token)):
        raise InvalidIdError(f"{token[:80]!r} is not a token's id: tok_ and 33 digits and letters")
    return match[1], int(match[2]), int(match[3])


def _encode(number: int, length: int) -> str:
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(length)))
