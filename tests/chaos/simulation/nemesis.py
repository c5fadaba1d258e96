"""The nemesis: which faults requests have, and how often."""

import random
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Literal

Kind = Literal["read", "list", "write", "conditional write"]

_ANY = ("unsent", "lost_request", "lost_answer", "error_before", "unavailable", "slow", "pause")
_OF_WRITES = (*_ANY, "late", "twice", "error_after", "crash")
_POSSIBLE: dict[Kind, tuple[str, ...]] = {
    "read": _ANY,
    "list": (*_ANY, "slow_listing"),
    "write": _OF_WRITES,
    "conditional write": (*_OF_WRITES, "conflict"),
}

MAX_DELAY_S = 30.0
PAUSES_S = (2.0, 90.0)
DELAYS_S = (1.0, 30.0)

_MAX_FAULT_SHARE = 0.5
"""The largest share of requests with a fault in a drawn mix, so that work goes on."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of requests, each of which has at most one of these faults. By default there are none.

    A client notices a lost answer by a time-out, or sooner by a broken connection.
    """

    unsent: float = 0.0
    """No connection is made in time, so the server sees nothing."""
    lost_request: float = 0.0
    """The server sees nothing, and the client cannot know."""
    lost_answer: float = 0.0
    """Applied, but the answer is lost."""
    late: float = 0.0
    """Applied up to `MAX_DELAY_S` after the client gave up."""
    twice: float = 0.0
    """Applied twice; the client gets the second answer."""
    error_before: float = 0.0
    """500, not applied."""
    error_after: float = 0.0
    """500, though applied."""
    unavailable: float = 0.0
    """503, not applied."""
    conflict: float = 0.0
    """409, not applied."""
    slow: float = 0.0
    """It takes seconds on the way to the server or back, or too long for the client."""
    slow_listing: float = 0.0
    """The same for listings, each of which still shows one instant."""
    crash: float = 0.0
    """The process crashes before it sends, while the request is under way, or afterwards."""
    pause: float = 0.0
    """The process is paused before or after the request, for `PAUSES_S`."""
    until: float = inf
    """Virtual time after which no request has a fault. Requests may still arrive late."""

    @classmethod
    def drawn(cls, rng: random.Random, until: float = inf) -> "Faults":
        """Draw a mix for a seed: some kinds never, others seldom or often."""
        rates = {
            field.name: 10 ** rng.uniform(-3, -0.5)
            for field in fields(cls)
            if field.name != "until" and rng.random() < 0.5
        }
        if "crash" in rates:
            rates["crash"] /= 10
        if "pause" in rates:
            rates["pause"] /= 10
        config = min(1.0, _MAX_FAULT_SHARE / (sum(rates.values()) or 1.0))
        if rng.random() < 0.1:
            config = 0.0
        return cls(**{name: rate * config for name, rate in rates.items()}, until=until)

    def without(self, *kinds: str) -> "Faults":
        """Return the same mix with these kinds at zero."""
        return replace(self, **dict.fromkeys(kinds, 0.0))

    def table(self, kind: Kind) -> list[tuple[float, str]]:
        """Return the faults that requests of this kind can have, with cumulated shares.

        A random number in [0, 1) means the first fault whose share is above it.
        """
        rows: list[tuple[float, str]] = []
        bound = 0.0
        for name in _POSSIBLE[kind]:
            if rate := getattr(self, name):
                bound += rate
                rows.append((bound, name))
        return rows
