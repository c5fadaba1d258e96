"""A thread pool that is fair between tenants: a slow tenant holds only a few of the threads."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class FairExecutor(Generic[T]):
    """Runs `run` on tasks, at most `max_per_tenant` of one tenant and each task once at a time.

    `run` must not raise.
    """

    def __init__(self, run: Callable[[T], None], *, num_threads: int, max_per_tenant: int) -> None:
        self._run = run
        self._num_threads = num_threads
        self._max_per_tenant = max_per_tenant
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="webhook")
        self._changed = threading.Condition()
        self._pending: dict[str, deque[T]] = {}
        self._running: set[T] = set()
        self._running_of_tenant: Counter[str] = Counter()

    def replace_pending(self, tasks: Mapping[str, Iterable[T]]) -> int:
        """Replace all pending tasks by these, by tenant, and leave out tasks that are running.

        Returns:
            The number of these tasks that were added.
        """
        with self._changed:
            pending = {
                tenant: deque(task for task in of_tenant if task not in self._running)
                for tenant, of_tenant in tasks.items()
            }
            self._pending = {tenant: queue for tenant, queue in pending.items() if queue}
            count = sum(map(len, self._pending.values()))
            self._start_tasks()
            return count

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all tasks are done, and return True if they are."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._running and not self._pending, timeout=timeout_s
            )

    def close(self) -> None:
        """Drop pending tasks and wait for running ones."""
        with self._changed:
            self._pending = {}
            # So that a task which ends from now on starts no other.
            self._num_threads = 0
        self._pool.shutdown()

    def _start_tasks(self) -> None:
        """Start tasks while threads are free; the caller holds the lock."""
        while len(self._running) < self._num_threads:
            eligible = [
                tenant
                for tenant in self._pending
                if self._running_of_tenant[tenant] < self._max_per_tenant
            ]
            if not eligible:
                return
            # Fair queueing: the tenant with the fewest running tasks is next.
            tenant = min(eligible, key=lambda name: self._running_of_tenant[name])
            queue = self._pending.pop(tenant)
            task = queue.popleft()
            if queue:
                self._pending[tenant] = queue  # Last in the order, for round robin among equals.
            self._running.add(task)
            self._running_of_tenant[tenant] += 1
            self._pool.submit(self._run_task, tenant, task)

    def _run_task(self, tenant: str, task: T) -> None:
        try:
            self._run(task)
        finally:
            with self._changed:
                self._running.remove(task)
                self._running_of_tenant[tenant] -= 1
                self._running_of_tenant += Counter[str]()  # Drops tenants whose count is 0.
                self._start_tasks()
                self._changed.notify_all()
