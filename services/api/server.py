"""The HTTP server of the API: uvicorn with h11, for connections that clients and proxies make.

uvicorn's faster parser, httptools, stops at a request with `Upgrade`, which HTTP/2 clients send by
default, and takes the body of such a request for the next request: whoever controls a body could
smuggle a request past a proxy. h11 ignores `Upgrade` and reads the body as what it is.

Connections are divided between the addresses of clients. An address that has its share, or finds
none left, takes the place of the connection that has waited longest for a request: first of its
own, then of the address with the most connections. So clients that connect and send nothing make
room for those that send requests.
"""

import asyncio
import resource
from collections import OrderedDict
from collections.abc import Callable
from socket import socket
from types import FrameType
from typing import Protocol, cast

import h11
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from services import logs
from services.api.middleware.request_log import record_request
from services.api.shares import network
from services.metrics import Metrics
from services.settings import ServerSettings
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


_MAX_HEAD_BYTES = 2**16
"""The size of a request line and headers that are not complete yet."""

_MIN_SENT_BYTES = 2**16
"""What a client has to take of a response within the timeout."""

_NO_PLACE = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 29\r\n\r\ntoo many connections are open"
)


class Server(uvicorn.Server):
    """A uvicorn server that ends event streams before it waits for requests to finish."""

    def __init__(
        self,
        app: FastAPI,
        settings: ServerSettings,
        grace_s: int,
        on_listening: Callable[[], object] = lambda: None,
    ) -> None:
        """Prepare a server.

        Args:
            app: The API.
            settings: Where it listens, and its limits.
            grace_s: The time that requests have to finish after a signal.
            on_listening: Called once it accepts connections.
        """
        self._app, self._on_listening = app, on_listening
        edge = EdgeMiddleware(app, settings.trusted_proxies)
        self.places = Connections(
            connection_capacity(settings.max_connections), settings.max_connections_per_address
        )
        super().__init__(
            uvicorn.Config(
                edge,
                host=settings.host,
                port=settings.port,
                http=_protocol(settings, self.places, edge, app.state.service.metrics),
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                ws="none",
                timeout_keep_alive=settings.connection_idle_timeout_s,
                timeout_graceful_shutdown=grace_s,
                proxy_headers=False,  # `EdgeMiddleware` reads them.
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully on a signal."""
        self.release()
        super().handle_exit(sig, frame)

    def release(self) -> None:
        """End all event streams and accept no more."""
        self._app.state.service.events.close()

    def stop(self) -> None:
        """Shut down gracefully without a signal. Thread-safe."""
        self.release()
        self.should_exit = True


_TWO_LENGTHS = PlainTextResponse(
    "Transfer-Encoding and Content-Length exclude each other: send one of them",
    status_code=400,
    headers={"Connection": "close"},
)


class FramingMiddleware:
    """Refuses a request that has both Transfer-Encoding and Content-Length. The app has it.

    h11 obeys the first, as it should, but leaves the connection open, so that a proxy that obeys
    the second takes the end of the body for a request of another client (RFC 9112 6.1).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_http = scope["type"] == "http"
        headers = Headers(scope=scope) if is_http else Headers()
        app = self._app
        if "transfer-encoding" in headers and "content-length" in headers:
            app = _TWO_LENGTHS
        await app(scope, receive, send)


class EdgeMiddleware(ProxyHeadersMiddleware):
    """Takes scheme, host and client of a request from the headers of proxies that are trusted.

    Links in responses then lead to where the client is, such as to https behind a proxy that ends
    TLS. uvicorn's own middleware does this for scheme and client.
    """

    def __init__(self, app: FastAPI, trusted: str) -> None:
        # FastAPI types the messages of ASGI as plain dictionaries, uvicorn each by its fields.
        super().__init__(cast("uvicorn._types.ASGI3Application", app), trusted)  # pyright: ignore

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # pyright: ignore
        """Handle a request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)  # pyright: ignore
            return
        headers, client = MutableHeaders(scope=scope), scope.get("client")
        # The last one, over all lines, is that of the nearest proxy, the only one that is trusted.
        forwarded = ",".join(headers.getlist("x-forwarded-host")).rpartition(",")[2].strip()
        if forwarded and client and client[0] in self.trusted_hosts:
            headers["host"] = forwarded
        await super().__call__(scope, receive, send)  # pyright: ignore


class _DeadlineProtocol(H11Protocol):
    """h11's protocol, which also closes connections whose client is slow, and limits their number.

    uvicorn times only the pause between two requests, and stops at the first byte after it. Without
    this, a client would hold its connection, and a file of the process, for ever if it never ended
    its headers, never ended a body that the service refuses without reading it, or never read its
    response.
    """

    settings: ServerSettings
    places: Connections
    edge: EdgeMiddleware
    metrics: Metrics
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _unsent_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        super().connection_made(transport)
        # Every byte that the client has not taken is timed, not only those beyond a buffer.
        transport.set_write_buffer_limits(high=0)
        address = self.client[0] if self.client else ""
        trusted = address in self.edge.trusted_hosts
        if self.places.admit(self, f"address {network(address)}", trusted=trusted):
            self._start_head_timer()
            return
        self.metrics.count("dti_rate_limited_total", limit="shares")
        transport.write(_NO_PLACE)
        transport.close()

    def evict(self) -> None:
        """Break the connection at once."""
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_stall_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle and not self.cycle.response_complete:
            self.places.work(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._sends_refused_body():
            return  # The timer runs since the response: more of the body does not extend it.
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_head_timer()  # The head is complete, or the connection ends.
        elif self.conn.trailing_data[0]:
            self._start_head_timer()
        else:
            # A refused body has ended: the connection waits for its next request.
            self._stop_head_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        self.places.wait(self)
        super().on_response_complete()
        if self._sends_refused_body():
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_stall_timer()
        self.places.remove(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        # No middleware sees a request that h11 cannot parse, such as one with two Content-Length.
        record_request(self.metrics, "other", "none", 400, 0.0)
        super().send_400_response(msg)

    def _should_upgrade(self) -> bool:
        return False  # uvicorn would log two warnings for each request that asks for it.

    def _sends_refused_body(self) -> bool:
        """Return whether the response is complete, and the body of its request is not."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _start_head_timer(self) -> None:
        """Close the connection after the timeout; a timer that runs already is not extended."""
        if not self._head_timer:
            timeout_s = self.settings.request_head_timeout_s
            self._head_timer = self.loop.call_later(timeout_s, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_stall_timer(self) -> None:
        """Break the connection unless its client takes enough of the response in time."""
        self._stop_stall_timer()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(
            self.settings.response_stall_timeout_s, self._check_stall
        )

    def _check_stall(self) -> None:
        if self._unsent_bytes - self.transport.get_write_buffer_size() < _MIN_SENT_BYTES:
            self.transport.abort()
        else:
            self._start_stall_timer()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()
            self._stall_timer = None


def _protocol(
    settings: ServerSettings, places: Connections, edge: EdgeMiddleware, metrics: Metrics
) -> type[_DeadlineProtocol]:
    """Return the protocol with its settings; uvicorn itself makes an instance per connection."""
    given = {"settings": settings, "places": places, "edge": edge, "metrics": metrics}
    return type("DeadlineProtocol", (_DeadlineProtocol,), given)
