"""Work of many tenants on a few threads: whose work is slow has a few of them, never all."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

W = TypeVar("W")


class FairExecutor(Generic[W]):
    """Does each piece of work once at a time. `do` must not raise."""

    def __init__(self, do: Callable[[W], None], *, threads: int, each: int) -> None:
        self._do = do
        self._threads = threads
        self._each = each
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="webhook")
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[W]] = {}
        self._in_hand: set[W] = set()
        self._of_tenant: Counter[str] = Counter()

    def model(self, work: Mapping[str, Iterable[W]]) -> int:
        """All there is to do now, by tenant, in place of what still waits; what is in hand already
        is passed over. Returns how much waits or has begun.
        """
        with self._changed:
            waiting = {
                tenant: deque(one for one in ones if one not in self._in_hand)
                for tenant, ones in work.items()
            }
            self._waiting = {tenant: ones for tenant, ones in waiting.items() if ones}
            count = sum(map(len, self._waiting.values()))
            self._begin()
            return count

    def wait(self, seconds: float | None = None) -> bool:
        """Until all is done; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._in_hand and not self._waiting, timeout=seconds
            )

    def close(self) -> None:
        """Begin nothing more, and wait for what is in hand."""
        with self._changed:
            self._waiting = {}
            self._threads = 0
        self._pool.shutdown()

    def _begin(self) -> None:
        while len(self._in_hand) < self._threads:
            may = [tenant for tenant in self._waiting if self._of_tenant[tenant] < self._each]
            if not may:
                return
            tenant = min(may, key=lambda one: self._of_tenant[one])
            ones = self._waiting.pop(tenant)
            one = ones.popleft()
            if ones:
                self._waiting[tenant] = ones  # behind the others
            self._in_hand.add(one)
            self._of_tenant[tenant] += 1
            self._pool.submit(self._run, tenant, one)

    def _run(self, tenant: str, one: W) -> None:
        try:
            self._do(one)
        finally:
            with self._changed:
                self._in_hand.remove(one)
                self._of_tenant[tenant] -= 1
                self._of_tenant += Counter[str]()  # Forgets those at 0.
                self._begin()
                self._changed.notify_all()
