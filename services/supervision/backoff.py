"""Workers whose starts fail, such as of weights that cannot be loaded, or that die young, are not
started without end.
"""

from collections.abc import Callable, Collection

from services.training.members import Member

_YOUNG = 30.0  # seconds of work
_PAUSES = (0.0, 5.0, 15.0, 60.0, 300.0)


class Backoff:
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

    def see(self, members: Collection[Member]) -> None:
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
