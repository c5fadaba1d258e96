"""Workers whose starts fail, such as of weights that cannot be loaded, or that die young, are not
started without end.

How many workers a pool should have, and which of those that there are should go.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from services.contracts.models import ServedModel
from services.supervisor.fair_share import ShareDecision
from services.training.pool import WorkerStatus

_ALL = ShareDecision()


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """What to do about a pool."""

    wanted: int
    start: int = 0
    drain: tuple[str, ...] = ()


def worth(model: ServedModel, open_items: int) -> int:
    """Workers that a backlog is worth: enough that every open item has a slot, within the limits of
    the offer.
    """
    return min(max(math.ceil(open_items / model.slots), model.min_workers), model.max_workers)


def resize(
    wanted: int, members: Sequence[WorkerStatus], *, patience: float, verdict: ShareDecision = _ALL
) -> ScaleChange:
    """To so many workers, or to what others leave.

    Who has something in hand is left alone, unless others have waited for its place: the end of a
    job empties it. patience: seconds for which an idle worker is kept where nobody waits, since the
    next job may come at once and models load slowly.
    """
    most = wanted if verdict.limit is None else min(wanted, verdict.limit)
    keep = patience if verdict.limit is None else 0.0
    staying = [each for each in members if each.state != "draining"]
    if len(staying) <= most:
        return ScaleChange(wanted, start=most - len(staying))
    spare = [
        each
        for each in staying
        if each.state == "pending" or (not each.in_hand and each.idle >= keep) or verdict.yields
    ]
    # Those that wait for a node first, so that no node is made for nothing.
    spare.sort(key=lambda each: (each.placed, each.state != "pending", each.in_hand, -each.idle))
    return ScaleChange(wanted, drain=tuple(each.name for each in spare[: len(staying) - most]))


_YOUNG = 30.0  # seconds of work
_PAUSES = (0.0, 5.0, 15.0, 60.0, 300.0)


class StartBackoff:
    """Of one pool: the more starts failed in a row, the longer nobody is started. One has succeeded
    when its worker has been running for a while, however long it waited for a place or loaded.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._running: dict[str, float | None] = {}
        """Since when; None: it waits for a place, or loads its model."""
        self._leaving: set[str] = set()
        self._failed = 0
        self._since = float("-inf")

    def started(self, name: str) -> None:
        """This one is to be. It may be gone before it is ever seen."""
        self._running[name] = None

    def see(self, members: Collection[WorkerStatus]) -> None:
        """Those that there are now."""
        now = self._clock()
        names = {member.name for member in members}
        self._leaving &= names
        for name in self._running.keys() - names:
            since = self._running.pop(name)
            if since is None or now - since < _YOUNG:
                self._failed += 1
                self._since = now
        for member in members:
            if member.name in self._leaving or member.state == "draining":
                self._running.pop(member.name, None)
                continue
            since = self._running.setdefault(member.name, None)
            if since is None and member.state == "running":
                since = self._running[member.name] = now
            if since is not None and now - since >= _YOUNG:
                self._failed = 0

    def left(self, name: str) -> None:
        """This one goes because it was asked to."""
        self._leaving.add(name)
        self._running.pop(name, None)

    @property
    def allows(self) -> bool:
        """Whether more may be started now."""
        return self._clock() - self._since >= _PAUSES[min(self._failed, len(_PAUSES) - 1)]
