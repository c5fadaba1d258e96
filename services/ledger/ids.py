"""Names that nobody can guess and that sort by time."""

import re
import secrets
import time
from collections.abc import Callable

from services.errors import InvalidIdError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_CHARACTER = f"[{_ALPHABET}]"
_TIME, _CHANCE = 10, 16
"""Characters: 50 bits of milliseconds, 80 bits of chance."""

_JOB = re.compile(f"{_CHARACTER}{{{_TIME + _CHANCE}}}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_TOKEN = re.compile(rf"tok_({_CHARACTER}{{{_TIME + _CHANCE}}})([0-9]{{2}})([0-9]{{5}})")


class Ids:
    """Makes them. `clock` is this host's, in seconds: it decides the order of a list, no more."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        randbits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._clock = clock
        self._randbits = randbits

    def job(self) -> str:
        """Sorts before the ids of earlier jobs, so that a listing begins with the newest."""
        reversed_time = (1 << 5 * _TIME) - 1 - int(1000 * self._clock())
        return _encode(reversed_time, _TIME) + self._chance()

    def worker(self) -> str:
        """Names one life of one process."""
        return self._chance()

    def nonce(self) -> str:
        """Makes the bytes of a record its writer's own."""
        return self._chance()

    def _chance(self) -> str:
        return _encode(self._randbits(5 * _CHANCE), _CHANCE)


def reverse_time_order(job: str) -> str:
    """A job's id so that ids sort the other way round; twice is the id again."""
    time_part = "".join(_ALPHABET[31 - _ALPHABET.index(character)] for character in job[:_TIME])
    return time_part + job[_TIME:]


def is_job_id(name: str) -> bool:
    """Whether it can be a job's id."""
    return _JOB.fullmatch(name) is not None


def is_tenant_name(name: str) -> bool:
    """Whether it can be a tenant's name."""
    return _TENANT.fullmatch(name) is not None


def is_token_id(name: str) -> bool:
    """Whether it can be a token's id."""
    return _TOKEN.fullmatch(name) is not None


def check_job_id(job: str) -> str:
    """The same. Raises: InvalidIdError unless it looks like a job's id."""
    if not is_job_id(job):
        raise InvalidIdError(f"{job[:80]!r} is no job's id: they have 26 digits and letters")
    return job


def check_tenant_name(tenant: str) -> str:
    """The same. Raises: InvalidIdError unless it can be part of a key."""
    if not is_tenant_name(tenant):
        raise InvalidIdError(
            f"{tenant[:80]!r} is no tenant's name: 1 to 63 of a-z, 0-9 and -, the first no -"
        )
    return tenant


def token_id(job: str, round_: int, index: int) -> str:
    """The learned token that item `index` of a job got in a round: its id says where it lies."""
    return f"tok_{job}{round_:02d}{index:05d}"


def parse_token_id(token: str) -> tuple[str, int, int]:
    """Job, round and index. Raises: InvalidIdError."""
    if not (match := _TOKEN.fullmatch(token)):
        raise InvalidIdError(f"{token[:80]!r} is no token's id: tok_ and 33 digits and letters")
    return match[1], int(match[2]), int(match[3])


def _encode(number: int, length: int) -> str:
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(length)))
