"""What a process of the API has a limited number of, divided between tenants.

Each place is reserved before the work that needs it, and given back after it. The server divides
connections by addresses, `Quotas` divides open items, and each engine divides the places of its
queue, all by the same `Shares`.

Threads are divided too. FastAPI runs each endpoint that is a plain function in one pool of threads,
where the first comes first: a tenant whose requests are slow would take all of them.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute

from services.settings import ApiSettings
from services.shares import FairSemaphore, Shares

P = ParamSpec("P")
R = TypeVar("R")


class RequestThreads:
    """Runs functions in threads, of which each owner has its share; owners take turns."""

    def __init__(self, capacity: int) -> None:
        """Create a pool of so many threads, which start when they are needed."""
        self._places = FairSemaphore("threads", capacity)
        self.shares = self._places.shares
        # A limiter of its own, so that anyio's common one never makes a holder of a place wait.
        self._limiter = CapacityLimiter(capacity)

    async def run(
        self, owner: str, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a function in a thread, once the owner may have one, and return its result."""
        async with self._places.hold(owner):
            bound = functools.partial(call, *args, **kwargs)
            return await to_thread.run_sync(bound, limiter=self._limiter)


def owner_of(request: Request) -> str:
    """Return the owner of what a request needs: its tenant, or its address if it has no key."""
    principal = getattr(request.state, "principal", None)
    if principal is not None:
        return principal.tenant
    return network_of(request)


def network_of(request: Request) -> str:
    """Return the owner that stands for the client's address; no tenant has a name with a space."""
    return f"address {network(request.client.host if request.client else '')}"


def network(address: str) -> str:
    """Return an address, or the /64 network of an IPv6 address, of which a client has many."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address  # such as that of a test client
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


_request: ContextVar[Request] = ContextVar("request")


class FairRoute(APIRoute):
    """A route that runs an endpoint that is a plain function in the tenant's share of threads."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Create the route."""
        super().__init__(path, _in_thread(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _request.set(request)
            return await handler(request)

        return handle


def _in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a coroutine function with the signature of the endpoint."""
    if inspect.iscoroutinefunction(endpoint):
        return endpoint

    @functools.wraps(endpoint)
    async def run(*args: Any, **kwargs: Any) -> Any:
        request = _request.get()
        threads: RequestThreads = request.app.state.service.shares.threads
        return await threads.run(owner_of(request), endpoint, *args, **kwargs)

    return run


@dataclass(frozen=True)
class ApiShares:
    """The shares of one process."""

    requests: Shares
    """Requests in progress: each holds a connection."""
    body_bytes: Shares
    """Bytes of bodies that are held in memory, from their announcement until the response."""
    uploads: Shares
    upload_bytes: Shares
    """Bytes of uploads in temporary files, from their announcement until they are stored."""
    event_streams: Shares
    image_requests: Shares
    """Requests that are sent to engines: each holds a connection to one."""
    deliveries: FairSemaphore
    """Images that are read from engines and sent to clients: each takes megabytes."""
    threads: RequestThreads
    large_orders: RequestThreads
    """The threads of jobs that are large: parsed, each takes up to a hundred megabytes."""


_NUM_LARGE_ORDERS = 2
"""Large jobs at a time: one of a tenant, and one of another."""


def api_shares(settings: ApiSettings) -> ApiShares:
    """Return shares that nobody holds."""
    return ApiShares(
        requests=Shares("requests in progress", settings.max_requests),
        body_bytes=Shares("bytes of request bodies", settings.max_body_memory_bytes),
        uploads=Shares("uploads", settings.max_concurrent_uploads),
        upload_bytes=Shares("bytes of uploads in progress", settings.max_upload_spool_bytes),
        event_streams=Shares(
            "event streams",
            settings.max_event_streams,
            max_per_owner=settings.max_streams_per_tenant,
        ),
        image_requests=Shares("requests for images", settings.max_image_requests),
        deliveries=FairSemaphore("deliveries of images", settings.max_image_deliveries),
        threads=RequestThreads(settings.num_request_threads),
        large_orders=RequestThreads(_NUM_LARGE_ORDERS),
    )
