"""Simulated processes, each on a host with a clock of its own, and their tasks."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from greenlet import greenlet

if TYPE_CHECKING:
    from chaos.simulation.world import World

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The time that a correct clock shows at virtual time 0."""


class Killed(BaseException):
    """The process has crashed: nothing that this task still does has an effect."""


class Task:
    """Blocking code that the world resumes when its wait is over."""

    __slots__ = ("done", "name", "process", "requests", "thread")

    def __init__(self, process: "Process", name: str, thread: greenlet) -> None:
        self.process = process
        self.name = name
        self.thread = thread
        self.done = False
        self.requests: list[int] | None = None
        """The numbers of the requests that a client sends for this task are recorded here."""


class Process:
    """Tasks that crash and pause together, on a host whose clock is wrong in offset and rate.

    Made by `World.process`.
    """

    def __init__(self, world: "World", name: str, offset: float, rate: float) -> None:
        self.world = world
        self.name = name
        self.offset = offset
        self.rate = rate
        self.alive = True
        self.paused_until = 0.0
        self.tasks: dict[Task, None] = {}
        """Tasks that have not ended, in the order of their start."""
        self.on_crash: list[Callable[[], None]] = []
        """Called outside all tasks when the process crashes."""

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def clock(self) -> float:
        """Return the host's monotonic clock. It can be negative, as its zero means nothing."""
        return self.offset + self.rate * self.world.now

    def wall(self) -> datetime:
        """Return the host's time of day, in UTC, which jumps with the world's."""
        return START + timedelta(seconds=self.clock() + self.world.jumped_s)

    def sleep(self, seconds: float) -> None:
        """Let a task of this process wait, by the host's clock."""
        self.world.wait(seconds / self.rate)

    def spawn(self, function: Callable[[], object], name: str = "") -> Task:
        """Start a task at once. Raise Killed after a crash."""
        return self.world.spawn(self, function, name or f"task {len(self.tasks)}")
