"""Workers that die young, such as of weights that cannot be loaded, are not started without end."""

from collections.abc import Callable

_YOUNG = 30.0  # seconds
_PAUSES = (0.0, 5.0, 15.0, 60.0, 300.0)


class Backoff:
    """Of one pool: the more of its workers died young in a row, the longer nobody is started."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._born: dict[str, float] = {}
        self._leaving: set[str] = set()
        self._young = 0
        self._since = float("-inf")

    def see(self, names: set[str]) -> None:
        """Those that there are now."""
        now = self._clock()
        self._leaving &= names
        for name in self._born.keys() - names:
            if now - self._born.pop(name) < _YOUNG:
                self._young += 1
                self._since = now
        for name in names - self._leaving:
            if now - self._born.setdefault(name, now) >= _YOUNG:
                self._young = 0

    def left(self, name: str) -> None:
        """This one goes because it was asked to."""
        self._leaving.add(name)
        self._born.pop(name, None)

    @property
    def allows(self) -> bool:
        """Whether more may be started now."""
        return self._clock() - self._since >= _PAUSES[min(self._young, len(_PAUSES) - 1)]
