"""Requests for images, and their queue: bounded, fair between tenants, with two priorities.

Each tenant has a fair share of the places, so that none can fill the queue. Tenants take turns by
cost: the next image is of the tenant that has been served least, in pixels times steps (start-time
fair queueing). Background requests let all interactive ones go first, but only for a bounded time,
because interactive requests may never cease (no starvation). A part of the queue is closed to
background requests, so that they cannot shut out interactive ones. Requests that are past their
deadline are dropped.
"""

import itertools
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from dti_engine.errors import ConfigurationError, DTIError
from dti_engine.generation.denoiser import ImageRequest
from services.contracts.cost import cost_of
from services.errors import QueueFullError, QuotaError
from services.shares import Shares

BatchKey = tuple[int, ...]
"""What images must have in common to share a batch: height and width in pixels. The key of an
isolated image has a number of its own as well.
"""

_numbers = itertools.count()


class RequestCallbacks(Protocol):
    """Receives the progress and the result of one image.

    The methods are called from the device thread: they must return quickly and must not raise.
    """

    def on_step(self, step: int, preview: Image.Image | None) -> None:
        """Handle that `step` denoising steps are done."""
        ...

    def on_end(self, result: Image.Image | DTIError) -> None:
        """Handle the result. Called exactly once, or never if the request was cancelled."""
        ...


@dataclass(eq=False)
class ScheduledRequest:
    """A request for one image. Times are in seconds of `time.monotonic`."""

    tenant: str
    image: ImageRequest
    steps: int
    size: tuple[int, int]
    """Height and width in pixels."""
    callbacks: RequestCallbacks
    deadline: float = float("inf")
    """When the caller stops waiting."""
    isolated: bool = False
    """Whether it gets a batch of its own, so that its rounding does not depend on other images."""
    background: bool = False
    """Whether it has low priority: interactive requests go first."""
    preview_interval: int = 0
    """Steps between two previews; 0: none."""
    queued_at: float = 0.0
    cancelled: bool = False
    """Whether the caller has left. May be set from any thread."""
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def batch_key(self) -> BatchKey:
        """Return the key of the batches that this image may be in."""
        return (*self.size, self.number) if self.isolated else self.size

    @property
    def cost(self) -> int:
        """Return the cost of the image in pixel steps."""
        return cost_of(self.steps, self.size[0] * self.size[1]).pixel_steps

    def is_expired(self, now: float) -> bool:
        """Return whether the image is cancelled or past its deadline."""
        return self.cancelled or now >= self.deadline


def is_isolated(key: BatchKey) -> bool:
    """Return whether a batch holds a single isolated image."""
    return len(key) > 2


_MAX_DEFERRAL_S = 60.0
"""How long a background request lets others go first."""

_RESERVED_FRACTION = 4
"""One in so many places of the queue is closed to background requests."""


class RequestQueue:
    """A bounded fair queue of requests. Thread-safe."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create an empty queue with room for `capacity` images."""
        self.capacity = capacity
        self.shares = Shares("places in the queue", capacity)
        """The places: a tenant may have as many as are left free."""
        self._clock = clock
        # In the order in which tenants with equal cost take turns. A tenant without requests has
        # no entry.
        self._by_tenant: OrderedDict[str, deque[ScheduledRequest]] = OrderedDict()
        self._served: dict[str, int] = {}
        """The cost that each tenant was served, as if it had been waiting since the beginning."""
        self._least_served = 0
        """What the tenant with the last turn had been served before it."""
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def put(self, requests: Sequence[ScheduledRequest], retry_after_s: float) -> None:
        """Add all requests or none.

        Args:
            requests: The images of one call.
            retry_after_s: When there may be room again, for the error.

        Raises:
            QueueFullError: There is no room now, or the tenant has its share (backpressure).
            ConfigurationError: There never is room for so many.
        """
        background = any(request.background for request in requests)
        reserved = self.capacity // _RESERVED_FRACTION if background else 0
        limit = self.capacity - reserved
        counts = Counter(request.tenant for request in requests)
        largest = (limit + 1) // 2
        if any(count > largest for count in counts.values()):
            raise ConfigurationError(
                f"{len(requests)} images at once, where {largest} of a tenant may wait: ask for "
                "fewer"
            )
        with self._changed:
            # All or none: a caller waits for all images of its request.
            with ExitStack() as stack:
                for tenant, count in counts.items():
                    try:
                        stack.enter_context(self.shares.reserve(tenant, count, limit=limit))
                    except QuotaError as error:
                        raise self._full(tenant, count, limit, retry_after_s) from error
                stack.pop_all()  # The places are kept, and given back one by one.
            for request in requests:
                request.queued_at = self._clock()
                if request.tenant not in self._by_tenant:
                    # A tenant that was away has no credit for that time.
                    served = self._served.get(request.tenant, 0)
                    self._served[request.tenant] = max(served, self._least_served)
                    self._by_tenant[request.tenant] = deque()
                self._by_tenant[request.tenant].append(request)
            self._changed.notify_all()

    def take(self, key: BatchKey, limit: int) -> list[ScheduledRequest]:
        """Remove and return at most `limit` requests for a batch.

        Tenants take turns by cost, and each tenant's requests keep their order; deferred background
        requests come last.
        """
        taken: list[ScheduledRequest] = []
        with self._changed:
            while len(taken) < limit:
                request = next((r for r in self._in_turn() if r.batch_key == key), None)
                if request is None:
                    break
                self._serve(request)
                taken.append(request)
        return taken

    def batch_keys(self, exclude: Set[BatchKey] = frozenset()) -> Iterator[BatchKey]:
        """Return the keys of waiting requests, in the order in which they should get a batch.

        That is the order of the tenants' turns; keys of deferred background requests come last.
        """
        with self._changed:
            in_turn = self._in_turn()
        return iter(dict.fromkeys(r.batch_key for r in in_turn if r.batch_key not in exclude))

    def drop_expired(self) -> list[ScheduledRequest]:
        """Remove and return the requests that are cancelled or past their deadline."""
        now = self._clock()
        with self._changed:
            expired = [request for request in self._all() if request.is_expired(now)]
            for request in expired:
                self._remove(request)
        return expired

    def clear(self) -> list[ScheduledRequest]:
        """Remove and return all requests."""
        with self._changed:
            requests = list(self._all())
            for request in requests:
                self._remove(request)
        return requests

    def wait(self, timeout_s: float) -> None:
        """Wait until there is a request, `wake` is called, or the timeout has passed."""
        with self._changed:
            # No loop: the caller looks for a stop after each wait.
            if not self._by_tenant:
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        """End all calls of `wait`."""
        with self._changed:
            self._changed.notify_all()

    def _full(self, tenant: str, count: int, limit: int, retry_after_s: float) -> QueueFullError:
        return QueueFullError(
            f"{self.shares.held(tenant)} images of this tenant and {self._count()} of all tenants "
            f"are waiting, of at most {limit}, and a tenant may have as many as are left free: ask "
            f"again later for {count} more",
            str(retry_after_s),
        )

    def _count(self) -> int:
        return sum(map(len, self._by_tenant.values()))

    def _all(self) -> Iterator[ScheduledRequest]:
        return (request for queue in self._by_tenant.values() for request in queue)

    def _is_deferred(self, request: ScheduledRequest) -> bool:
        """Return whether a request lets all others go first."""
        return request.background and self._clock() - request.queued_at < _MAX_DEFERRAL_S

    def _in_turn(self) -> list[ScheduledRequest]:
        """Return all requests in the order in which they are served."""
        turns: list[tuple[bool, int, ScheduledRequest]] = []
        for tenant, queue in self._by_tenant.items():
            served = self._served[tenant]
            for request in queue:
                turns.append((self._is_deferred(request), served, request))
                served += request.cost
        turns.sort(key=lambda turn: turn[:2])  # The sort is stable.
        return [request for _, _, request in turns]

    def _serve(self, request: ScheduledRequest) -> None:
        tenant = request.tenant
        self._least_served = max(self._least_served, self._served[tenant])
        self._served[tenant] += request.cost
        self._by_tenant.move_to_end(tenant)
        self._remove(request)
        if len(self._served) > 2 * self.capacity:  # Tenants that would have no credit if they came.
            self._served = {
                tenant: served
                for tenant, served in self._served.items()
                if tenant in self._by_tenant or served > self._least_served
            }

    def _remove(self, request: ScheduledRequest) -> None:
        queue = self._by_tenant[request.tenant]
        queue.remove(request)
        self.shares.give_back(request.tenant, 1)
        if not queue:
            del self._by_tenant[request.tenant]
