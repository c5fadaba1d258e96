"""Images that wait for their turn: so many at most, tenants in turns, none that is stale.

Patient ones, which nobody looks at, let all others go first; but only for so long, since somebody
may come at any moment for ever. Some places are kept from them, so that they never shut anyone out.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import zip_longest

from dti_engine.errors import ConfigurationError
from services.errors import QueueFullError
from services.inference.scheduler.request import ScheduledRequest

_PATIENCE = 60.0
"""Seconds after which a background image is like any other."""

_KEPT = 4
"""Of so many places, one is for others than background images."""


class RequestQueue:
    """Safe to use from many threads."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        # The first tenant is the next one whose turn it is.
        self._lines: OrderedDict[str, deque[ScheduledRequest]] = OrderedDict()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lines.values()))

    def put(self, tickets: Sequence[ScheduledRequest], wait: float) -> None:
        """All of them or none. wait: seconds after which there may be room again.

        Raises: QueueFullError; ConfigurationError if there never is room for so many.
        """
        background = any(ticket.background for ticket in tickets)
        limit = self.limit - self.limit // _KEPT if background else self.limit
        if len(tickets) > limit:
            raise ConfigurationError(
                f"{len(tickets)} images at once, where {limit} may wait: ask for fewer"
            )
        with self._changed:
            waiting = sum(map(len, self._lines.values()))
            if waiting + len(tickets) > limit:
                raise QueueFullError(
                    f"{waiting} images are waiting, of at most {limit}: ask again later "
                    f"for {len(tickets)} more",
                    str(wait),
                )
            for ticket in tickets:
                ticket.entered = self._clock()
                self._lines.setdefault(ticket.tenant, deque()).append(ticket)
            self._changed.notify_all()

    def take(self, group: tuple[int, ...], most: int) -> list[ScheduledRequest]:
        """At most so many of a group, one of each tenant by turns, each tenant's in order;
        background ones last.
        """
        taken: list[ScheduledRequest] = []
        with self._changed:
            for yielding in (False, True):
                while len(taken) < most and (ticket := self._pop(group, yielding)):
                    taken.append(ticket)
        return taken

    def groups(self, but: Set[tuple[int, ...]] = frozenset()) -> Iterator[tuple[int, ...]]:
        """Those that somebody waits in, in the order in which tenants have their turns; those that
        only background ones wait in last.
        """
        with self._changed:
            lines = [list(line) for line in self._lines.values()]
        in_turn = [ticket for turn in zip_longest(*lines) for ticket in turn if ticket]
        in_turn.sort(key=self._yields)
        return iter(dict.fromkeys(each.group for each in in_turn if each.group not in but))

    def sweep(self) -> list[ScheduledRequest]:
        """Take out those that there is nobody to generate for."""
        now = self._clock()
        with self._changed:
            stale = [each for line in self._lines.values() for each in line if each.stale(now)]
            for ticket in stale:
                self._remove(ticket)
        return stale

    def clear(self) -> list[ScheduledRequest]:
        """Take out all."""
        with self._changed:
            tickets = [each for line in self._lines.values() for each in line]
            self._lines.clear()
        return tickets

    def wait(self, seconds: float) -> None:
        """Until there is something, or it was woken, or so long."""
        with self._changed:
            if not self._lines:
                self._changed.wait(seconds)

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self._changed:
            self._changed.notify_all()

    def _yields(self, ticket: ScheduledRequest) -> bool:
        """Whether all others go first."""
        return ticket.background and self._clock() - ticket.entered < _PATIENCE

    def _pop(self, group: tuple[int, ...], yielding: bool) -> ScheduledRequest | None:
        for tenant, line in self._lines.items():
            for ticket in line:
                if ticket.group == group and self._yields(ticket) == yielding:
                    self._remove(ticket)
                    if tenant in self._lines:
                        self._lines.move_to_end(tenant)
                    return ticket
        return None

    def _remove(self, ticket: ScheduledRequest) -> None:
        line = self._lines[ticket.tenant]
        line.remove(ticket)
        if not line:
            del self._lines[ticket.tenant]
