"""Connections to sinks: to an address that was looked at, and for so many seconds in all.

What is looked at is what is connected to: a name is resolved once, and a name that says something
else a moment later gains nothing. The socket is asked once more who is at its other end, before a
byte is sent.

One message to one sink, once: no redirects, no proxy, and of the answer only its status.
"""

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import httpcore
import httpx

from dti_engine import __version__
from services.errors import UnsafeUrlError
from services.webhooks.targets import Resolve, WebhookSettings, WebhookTarget, resolve

MAX_READ = 64 * 1024
"""Bytes that are read of an answer's head, before nobody listens any more."""

MAX_ADDRESSES = 4
"""Of one host, that are tried."""


class Deadline:
    """So many seconds from now, for all steps together."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Raises: httpcore.ReadTimeout if it is over."""
        if (left := self._end - self._clock()) <= 0:
            raise httpcore.ReadTimeout("the time for one delivery is over")
        return left


class BoundedStream(httpcore.NetworkStream):
    """A connection that ends at a deadline however slowly the other side goes on, and of which so
    much is read.
    """

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline
        self._read = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        got = self._inner.read(max_bytes, self._deadline.left())
        self._read += len(got)
        if self._read > MAX_READ:
            raise httpcore.ReadError("the answer is too long")
        return got

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secured = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left())
        return BoundedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to one sink, for one delivery."""

    def __init__(
        self, sink: WebhookTarget, settings: WebhookSettings, resolve: Resolve, deadline: Deadline
    ) -> None:
        self._sink = sink
        self._settings = settings
        self._resolve = resolve
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises: UnsafeUrlError, httpcore.ConnectError, httpcore.ConnectTimeout."""
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # The latter of names that are too long.
            raise httpcore.ConnectError("its name was not found") from error
        self._sink.check(addresses, self._settings)
        failed: Exception = httpcore.ConnectError("its name was not found")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                left = self._deadline.left()
                stream = self._inner.connect_tcp(address, port, left, None, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
                continue
            try:
                peer = stream.get_extra_info("server_addr")
                self._sink.check([str(peer[0])], self._settings)
            except BaseException:
                stream.close()
                raise
            return BoundedStream(stream, self._deadline)
        raise failed

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        raise UnsafeUrlError("no webhook goes to a socket of this host")


_GONE = 410


@dataclass(frozen=True, slots=True)
class DeliveryResponse:
    """What came of it."""

    delivered: bool
    reason: str
    """In few words, for the tenant."""
    gone: bool = False
    """The sink wants no more of it."""


class WebhookSender:
    """Safe to share between threads: each message has a connection of its own."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._tls = tls or httpx.create_ssl_context()

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> DeliveryResponse:
        """POST it. Never raises for what the sink, its name or its network do."""
        try:
            status = self._post(WebhookTarget.parse(url, self._settings), headers, body)
        except UnsafeUrlError as error:
            return DeliveryResponse(False, f"not sent: {error}")
        except httpcore.TimeoutException:
            return DeliveryResponse(False, f"no answer within {self._settings.timeout:g} seconds")
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return DeliveryResponse(False, _why(error))
        return DeliveryResponse(200 <= status < 300, f"answered {status}", gone=status == _GONE)

    def _post(self, sink: WebhookTarget, headers: Mapping[str, str], body: bytes) -> int:
        deadline = Deadline(self._settings.timeout)
        backend = CheckedBackend(sink, self._settings, self._resolve, deadline)
        sent = {
            "content-type": "application/json",
            "user-agent": f"dti-webhooks/{__version__}",
            "accept": "*/*",
            "connection": "close",
            **headers,
        }
        lines = [(name.encode(), value.encode()) for name, value in sent.items()]
        with (
            httpcore.ConnectionPool(
                ssl_context=self._tls, max_connections=1, network_backend=backend
            ) as pool,
            # The scheme decides whether it is TLS, the host whose certificate must be shown.
            pool.stream(
                "POST",
                httpcore.URL(
                    scheme=sink.scheme.encode(),
                    host=sink.host.encode(),
                    port=sink.port,
                    target=sink.target,
                ),
                headers=[(b"host", sink.netloc), *lines],
                content=body,
            ) as answer,
        ):
            return answer.status  # The rest is not read: it is closed.


def _why(error: Exception) -> str:
    if isinstance(error, httpcore.ConnectError):
        text = str(error)
        refused = "CERTIFICATE" in text or "SSL" in text
        return "its certificate or TLS was refused" if refused else "could not be connected to"
    return "closed the connection, or did not answer in HTTP"
