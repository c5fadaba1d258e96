"""The world: processes under one virtual clock, which run, wait, crash and pause by a seed.

    with World(seed) as world:
        process = world.process("worker")
        process.spawn(work)
        world.run(until=3600)

Tasks are greenlets. Code between two waits takes no time and is not interrupted, so a task must not
block otherwise: no `time.sleep`, no lock that another task holds.
"""

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from types import TracebackType
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from chaos.simulation.process import Killed, Process, Task

T = TypeVar("T")

_WORST_OFFSET = 4 * 3600.0
_RATES = (0.999, 1.001)
_REMEMBERED = 200_000
"""Entries of the log that are kept, the latest."""


class VirtualClock:
    """Seconds from 0 on, and the calls that are due."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.entries: deque[tuple[float, str, str, tuple[Any, ...]]] = deque(maxlen=_REMEMBERED)
        """The log: time, process, event, details."""
        self._due: list[tuple[float, float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, seconds: float, action: Callable[..., object], *arguments: Any) -> None:
        """Call `action` outside all tasks, in so many seconds.

        Calls that are due at the same time come in a random order.
        """
        self._made += 1
        heappush(
            self._due, (self.now + seconds, self.random.random(), self._made, action, arguments)
        )

    def schedule(self) -> str:
        """Return the log, one line per entry."""
        return "\n".join(
            f"{time:12.6f} {name:12} {event:8} {' '.join(map(str, details))}"
            for time, name, event, details in self.entries
        )

    def step(self, until: float = inf) -> bool:
        """Go on to the next due call, unless it is after `until`; return whether there was one."""
        due = self._due
        if due and due[0][0] <= until:
            self.now, _, _, action, arguments = heappop(due)
            action(*arguments)
            return True
        if until < inf:
            self.now = max(self.now, until)
        return False

    def forget(self) -> None:
        """Drop all due calls."""
        self._due.clear()


class World(VirtualClock):
    """All processes, and the running task."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.processes: list[Process] = []
        self.running: Task | None = None
        self.jumped_s = 0
        """How far the time of day of all hosts has jumped."""
        self._failure: BaseException | None = None
        self._hub = getcurrent()

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def process(
        self, name: str, *, offset: float | None = None, rate: float | None = None
    ) -> Process:
        """Return a new process on a new host; offset and rate of its clock are drawn if None."""
        process = Process(
            self,
            name,
            self.random.uniform(-_WORST_OFFSET, _WORST_OFFSET) if offset is None else offset,
            self.random.uniform(*_RATES) if rate is None else rate,
        )
        self.processes.append(process)
        return process

    def spawn(self, process: Process, function: Callable[[], object], name: str) -> Task:
        """Start a task at once. Raise Killed after a crash."""
        if not process.alive:
            raise Killed
        task = Task(process, name, greenlet(lambda: self._run(task, function), self._hub))
        process.tasks[task] = None
        self.after(0, self._resume, task)
        return task

    def task(self) -> Task:
        """Return the running task. Raise Killed if its process has crashed."""
        task = self.running
        if task is None:
            raise RuntimeError("only a task can wait or send requests: spawn one")
        if not task.process.alive:
            raise Killed
        return task

    def wait(self, seconds: float) -> None:
        """Let the running task wait in virtual time, or longer if it is paused.

        Raises: Killed if its process has crashed by then.
        """
        task = self.task()
        self.after(max(seconds, 0.0), self._resume, task)
        self._hub.switch()
        if not task.process.alive:
            raise Killed

    def sleep(self, seconds: float) -> None:
        """Let the running task wait, by its host's clock."""
        self.wait(seconds / self.task().process.rate)

    def crash(self, process: Process) -> None:
        """Crash a process as SIGKILL does.

        Its tasks get Killed where they wait. The fate of requests under way is random.

        Raises: Killed if the running task is one of them.
        """
        if not process.alive:
            return
        process.alive = False
        self.log("crash", process.name)
        for task in process.tasks:
            self.after(0, self._resume, task)
        for action in process.on_crash:
            self.after(0, action)
        if self.running and self.running.process is process:
            raise Killed

    def pause(self, process: Process, seconds: float) -> None:
        """Pause a process as SIGSTOP does, with SIGCONT after so many virtual seconds.

        A task that pauses its own process stops here, all others where they wait.
        """
        process.paused_until = max(process.paused_until, self.now + seconds)
        self.log("pause", process.name, seconds)
        if self.running and self.running.process is process:
            self.wait(0)

    def jump(self, seconds: int) -> None:
        """Move the time of day of all hosts, forward or back. No other clock changes."""
        self.jumped_s += seconds
        self.log("jump", seconds)

    def run(self, until: float = inf, done: Callable[[], bool] | None = None) -> bool:
        """Run until that time, until nothing is due, or until `done` holds; return whether it does.

        Raises: what escapes a task, other than Killed.
        """
        while done is None or not done():
            if not self.step(until):
                return False
            if self._failure:
                failure, self._failure = self._failure, None
                raise failure
        return True

    def perform(self, process: Process, function: Callable[[], T]) -> T:
        """Run a function as a task of `process`, and return its result.

        Raises: what the function raises, or Killed if its process crashes.
        """
        results: list[T] = []
        task = process.spawn(lambda: results.append(function()), "performance")
        self.run(done=lambda: task.done)
        if not results:
            raise Killed
        return results[0]

    def log(self, event: str, *details: Any) -> None:
        """Log an event; nothing is formatted yet."""
        name = self.running.process.name if self.running else ""
        self.entries.append((self.now, name, event, details))

    def close(self) -> None:
        """Crash everything, so that no task outlives the world."""
        for process in self.processes:
            process.alive = False
            for task in list(process.tasks):
                self._resume(task)
        self.forget()

    def _resume(self, task: Task) -> None:
        if task.done:
            return
        process = task.process
        if process.alive and process.paused_until > self.now:
            self.after(process.paused_until - self.now, self._resume, task)
            return
        self.running = task
        task.thread.switch()
        self.running = None

    def _run(self, task: Task, function: Callable[[], object]) -> None:
        process = task.process
        try:
            if process.alive:
                function()
        except Killed:
            pass
        except BaseException as error:
            # What a dead process still raises, in `finally` for instance, nobody would have seen.
            if process.alive:
                self.log("failed", task.name, type(error).__name__)
                self._failure = error
        task.done = True
        process.tasks.pop(task, None)
