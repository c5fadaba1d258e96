"""Fair shares of what is scarce: reserved before the work, given back after it.

Everything that a process has a limited number of, such as connections, threads or places in a
queue, is divided by a `Shares`. An owner, such as a tenant, may reserve as long as it holds less
than is free. So one owner alone gets half of the capacity, two get a third each, and there is
always something left for an owner that holds nothing yet: nobody can take everything, and nobody
has to give back anything early. This is the dynamic threshold of Choudhury and Hahne, "Dynamic
queue length thresholds for shared-memory packet switches" (1998), with the factor 1.
"""

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType

from services.errors import QuotaError

_RETRY_AFTER_S = "5"


class Shares:
    """Divides a capacity between owners. Thread-safe."""

    def __init__(self, name: str, capacity: int, *, max_per_owner: int | None = None) -> None:
        """Create shares that nobody holds.

        Args:
            name: What is divided, in the plural, for errors.
            capacity: How much there is for all owners together.
            max_per_owner: What one owner holds at most, however much is free; None: no such limit.
        """
        self.name, self.capacity, self._max_per_owner = name, capacity, max_per_owner
        self._lock = threading.Lock()
        self._held = Counter[str]()
        self._used = 0

    @property
    def largest(self) -> int:
        """Return the largest amount that can be reserved at once, by an owner that is alone."""
        half = (self.capacity + 1) // 2
        return half if self._max_per_owner is None else min(half, self._max_per_owner)

    @property
    def used(self) -> int:
        """Return the amount that all owners hold together."""
        with self._lock:
            return self._used

    def held(self, owner: str) -> int:
        """Return what an owner holds."""
        with self._lock:
            return self._held[owner]

    def reserve(self, owner: str, amount: int = 1, *, limit: int | None = None) -> "Reservation":
        """Reserve an amount for an owner, until the reservation is released.

        Args:
            owner: Who holds it.
            amount: How much of it, all or nothing.
            limit: The capacity for this call, if it is smaller.

        Raises:
            QuotaError: The owner has its share already, or nothing is free.
        """
        reservation = Reservation(self, owner)
        reservation.extend(amount, limit=limit)
        return reservation

    def take(self, owner: str, amount: int, limit: int | None = None) -> bool:
        """Take an amount if the owner may have it, and return whether it has it now."""
        with self._lock:
            held, free = self._held[owner], min(limit or self.capacity, self.capacity) - self._used
            # The last unit of the amount is taken while the owner holds less than is free.
            fits = held + 2 * amount <= free + 1
            if self._max_per_owner is not None and held + amount > self._max_per_owner:
                fits = False
            if fits:
                self._held[owner] = held + amount
                self._used += amount
            return fits

    def give_back(self, owner: str, amount: int) -> None:
        """Give back an amount that the owner took."""
        with self._lock:
            self._used -= amount
            self._held[owner] -= amount
            if not self._held[owner]:
                del self._held[owner]  # An owner that holds nothing takes no memory.

    def refusal(self, owner: str, amount: int) -> QuotaError:
        """Return the error of an owner that may not take an amount now."""
        return QuotaError(
            f"{amount} more {self.name} were asked for, while this caller has {self.held(owner)} "
            f"and all callers have {self.used} of {self.capacity}; a caller may have as many as "
            "are left free: wait until some of yours have ended",
            _RETRY_AFTER_S,
        )


class Reservation:
    """A context manager that holds the reservations of one owner and releases them at the end."""

    def __init__(self, shares: Shares, owner: str) -> None:
        """Create an empty reservation."""
        self._shares, self._owner, self.amount = shares, owner, 0

    def extend(self, amount: int, *, limit: int | None = None) -> None:
        """Reserve more. Raise QuotaError, and reserve nothing, if the owner may not have it."""
        if not self._shares.take(self._owner, amount, limit):
            raise self._shares.refusal(self._owner, amount)
        self.amount += amount

    def release(self) -> None:
        """Give back everything; again, nothing."""
        amount, self.amount = self.amount, 0
        if amount:
            self._shares.give_back(self._owner, amount)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class FairSemaphore:
    """A semaphore of an event loop whose owners wait for their shares, and take turns.

    For what is held only for a short time, such as a thread: waiting for it is better than a
    refusal. The waiters of one owner are served in their order.
    """

    def __init__(self, name: str, capacity: int) -> None:
        """Create a semaphore with so many places."""
        self.shares = Shares(name, capacity)
        self._waiting: OrderedDict[str, deque[tuple[asyncio.Future[None], int]]] = OrderedDict()
        """The waiters of each owner and their amounts, in the order of the owners' turns."""

    @asynccontextmanager
    async def hold(self, owner: str) -> AsyncGenerator[None]:
        """Wait for a place, and hold it."""
        await self.acquire(owner)
        try:
            yield
        finally:
            self.release(owner)

    async def acquire(self, owner: str, amount: int = 1) -> int:
        """Wait for so many places, or for the most that an owner can have; return how many."""
        amount = min(amount, self.shares.largest)
        if owner not in self._waiting and self.shares.take(owner, amount):
            return amount
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append((waiter, amount))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._forget(owner, waiter)
                self._wake()  # The next waiter of this owner may need less.
            else:  # It was given its places in the same moment.
                self.release(owner, amount)
            raise
        return amount

    def release(self, owner: str, amount: int = 1) -> None:
        """Give back places that were acquired."""
        self.shares.give_back(owner, amount)
        self._wake()

    def _wake(self) -> None:
        """Give free places to waiters, one owner after the other."""
        progress = True
        while progress:
            progress = False
            for owner in list(self._waiting):
                waiter, amount = self._waiting[owner][0]
                if not waiter.cancelled() and not self.shares.take(owner, amount):
                    continue
                progress = True
                self._forget(owner, waiter)
                if owner in self._waiting:
                    self._waiting.move_to_end(owner)
                if not waiter.cancelled():
                    waiter.set_result(None)

    def _forget(self, owner: str, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(owner, deque())
        left = deque(each for each in waiters if each[0] is not waiter)
        if left:
            self._waiting[owner] = left
        else:
            self._waiting.pop(owner, None)
