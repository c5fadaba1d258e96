"""The connections of the server, divided between the addresses of clients.

An address that has its share, or finds none left, takes the place of the connection that has waited
longest for a request: first of its own, then of the address with the most connections. So clients
that connect and send nothing make room for those that send requests.
"""

import resource
from collections import OrderedDict
from typing import Protocol

from services import logs
from services.shares import Shares

_FILES_PER_CONNECTION = 2
"""Open files for each connection: its own, and that of an upload or of one to an engine."""

log = logs.logger(__name__)


class Connection(Protocol):
    """A connection of the server."""

    def evict(self) -> None:
        """Break the connection at once."""
        ...


class Connections:
    """Divides connections between owners. It belongs to the event loop."""

    def __init__(self, capacity: int, max_per_owner: int) -> None:
        """Create an empty set of connections.

        Args:
            capacity: How many there are in all.
            max_per_owner: How many an owner may have that is not trusted.
        """
        self.shares = Shares("connections", capacity)
        self._max_per_owner = max_per_owner
        self._owners: dict[Connection, str] = {}
        self._waiting: dict[str, OrderedDict[Connection, None]] = {}
        """The connections of each owner that wait for a request, the oldest first."""

    def __len__(self) -> int:
        return len(self._owners)

    def admit(self, connection: Connection, owner: str, *, trusted: bool) -> bool:
        """Admit a connection, which waits for its first request; False if there is no place."""
        limit = self.shares.capacity if trusted else self._max_per_owner
        while self.shares.held(owner) >= limit or not self.shares.take(owner, 1):
            if not self._evict_one(owner):
                return False
        self._owners[connection] = owner
        self.wait(connection)
        return True

    def wait(self, connection: Connection) -> None:
        """Note that a connection waits for a request; one that waits already keeps its place."""
        if owner := self._owners.get(connection):
            self._waiting.setdefault(owner, OrderedDict()).setdefault(connection)

    def work(self, connection: Connection) -> None:
        """Note that a request has arrived on a connection."""
        if owner := self._owners.get(connection):
            self._waiting.get(owner, OrderedDict()).pop(connection, None)
            if not self._waiting.get(owner, True):
                del self._waiting[owner]

    def remove(self, connection: Connection) -> None:
        """Give back the place of a connection."""
        self.work(connection)
        if owner := self._owners.pop(connection, None):
            self.shares.give_back(owner, 1)

    def _evict_one(self, owner: str) -> bool:
        """Break the connection that has waited longest, and return whether there was one."""
        if owner not in self._waiting:
            if self.shares.held(owner) or not self._waiting:
                return False
            owner = max(self._waiting, key=lambda each: len(self._waiting[each]))
        connection = next(iter(self._waiting[owner]))
        self.remove(connection)
        connection.evict()
        return True


def connection_capacity(wanted: int) -> int:
    """Return how many connections the limit of open files allows, after raising it if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES_PER_CONNECTION * wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    capacity = max(1, soft // _FILES_PER_CONNECTION)
    log.warning("few open files", limit=soft, wanted=needed, connections=capacity)
    return capacity
