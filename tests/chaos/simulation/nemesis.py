"""What goes wrong, and how often."""

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

LATEST = 30.0
PAUSES = (2.0, 90.0)
DELAYS = (1.0, 30.0)
"""Seconds."""

_MOST = 0.5
"""At most this share of requests has a fault in a drawn mix, so that work goes on."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of requests, each of which has at most one of these. By default all goes well.

    Where an answer is lost, the client notices by a time-out, or soon, by a broken connection.
    """

    unsent: float = 0.0
    """No connection is made in time, so the server sees nothing."""
    lost_request: float = 0.0
    """The server sees nothing, and the client cannot know."""
    lost_answer: float = 0.0
    """Applied, but the client is not told."""
    late: float = 0.0
    """Applied up to `LATEST` seconds after the client gave up."""
    twice: float = 0.0
    """Applied, then applied once more, and the second answer is told."""
    error_before: float = 0.0
    """500, not applied."""
    error_after: float = 0.0
    """500, though applied."""
    unavailable: float = 0.0
    """503, not applied."""
    conflict: float = 0.0
    """409, not applied."""
    slow: float = 0.0
    """On the way to the server or back it takes seconds, or too long for the client."""
    slow_listing: float = 0.0
    """The same of listings, each of which is still taken at one instant."""
    crash: float = 0.0
    """The process crashes before it sends, while the request is under way, or once applied."""
    pause: float = 0.0
    """The process is paused before or after the request, for `PAUSES` seconds."""
    until: float = inf
    """Virtual time from which on no request has a fault. Requests may still arrive late."""

    @classmethod
    def drawn(cls, chance: random.Random, until: float = inf) -> "Faults":
        """A mix of its own for each seed: some kinds never, others seldom or often."""
        rates = {
            field.name: 10 ** chance.uniform(-3, -0.5)
            for field in fields(cls)
            if field.name != "until" and chance.random() < 0.5
        }
        if "crash" in rates:
            rates["crash"] /= 10
        if "pause" in rates:
            rates["pause"] /= 10
        scale = min(1.0, _MOST / (sum(rates.values()) or 1.0))
        if chance.random() < 0.1:
            scale = 0.0
        return cls(**{name: rate * scale for name, rate in rates.items()}, until=until)

    def without(self, *kinds: str) -> "Faults":
        """The same, with these kinds at zero."""
        return replace(self, **dict.fromkeys(kinds, 0.0))

    def table(self, kind: Kind) -> list[tuple[float, str]]:
        """Names of faults that requests of this kind can have, with the bounds below which a
        number in [0, 1) means them.
        """
        rows: list[tuple[float, str]] = []
        bound = 0.0
        for name in _POSSIBLE[kind]:
            if rate := getattr(self, name):
                bound += rate
                rows.append((bound, name))
        return rows
