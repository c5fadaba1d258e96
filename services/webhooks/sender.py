"""One HTTP request to a webhook target: pinned to a checked address, within one deadline.

The name is resolved once, and the connection goes to an address that was checked, so that a name
that changes its answer meanwhile gains nothing (DNS rebinding). The peer of the socket is checked
again before a byte is sent. There are no redirects and no proxy, and only the status of the
response is read.
"""

import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import httpcore
import httpx

from dti_engine import __version__
from services.errors import UnsafeUrlError
from services.ledger.queries import JobView
from services.webhooks.targets import Resolve, WebhookSettings, WebhookTarget, resolve

SECRET_PREFIX = "whsec_"


def job_ended_message(
    view: JobView, ended: datetime, state: str, counts: Mapping[str, int]
) -> bytes:
    """Return the JSON of a message of type `training_job.ended` or `generation_job.ended`."""
    data = {"job": view.job, "state": state, "counts": counts, "tags": view.tags}
    message = {"type": f"{view.kind}_job.ended", "timestamp": ended.isoformat(), "data": data}
    return json.dumps(message).encode()


def signed_headers(
    secrets: Sequence[str], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the headers of a message, with a signature by each secret.

    The standard webhooks specification separates signatures by spaces; a receiver accepts the
    message if one of them is by the secret that it knows.

    Args:
        secrets: The tenant's secrets, each `whsec_` and base64.
        message_id: The id, which is the same at each attempt.
        timestamp: The time of the attempt in seconds since 1970, so that receivers can refuse old
            messages.
        body: The message.
    """
    text = f"{message_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(each.removeprefix(SECRET_PREFIX), validate=True) for each in secrets]
    digests = [hmac.new(key, text, hashlib.sha256).digest() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(digest).decode()}" for digest in digests
        ),
    }


MAX_READ_BYTES = 64 * 1024
"""The maximum size of a response's head."""

MAX_ADDRESSES = 4
"""The number of addresses of one host that are tried."""

_GONE = 410


class Deadline:
    """A time limit for all steps of a delivery together."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + timeout_s

    def remaining_s(self) -> float:
        """Return the remaining time.

        Raises:
            httpcore.ReadTimeout: No time is left.
        """
        if (remaining_s := self._end - self._clock()) <= 0:
            raise httpcore.ReadTimeout("the time for one delivery is over")
        return remaining_s


class BoundedStream(httpcore.NetworkStream):
    """A connection with a deadline and a limit of bytes read.

    A timeout per read would not do: a server that sends one byte at a time could hold it open.
    """

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline
        self._num_read = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # The pool's own timeout starts anew with each read, so that it is ignored.
        data = self._inner.read(max_bytes, self._deadline.remaining_s())
        self._num_read += len(data)
        if self._num_read > MAX_READ_BYTES:
            raise httpcore.ReadError("the response is too long")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.remaining_s())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        tls = self._inner.start_tls(ssl_context, server_hostname, self._deadline.remaining_s())
        return BoundedStream(tls, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to the checked addresses of one target, for one delivery."""

    def __init__(
        self,
        target: WebhookTarget,
        settings: WebhookSettings,
        resolve: Resolve,
        deadline: Deadline,
    ) -> None:
        self._target = target
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
        """Connect to the first address that accepts.

        Raises:
            UnsafeUrlError: An address of the host is not allowed.
            httpcore.ConnectError: The name cannot be resolved, or no address accepts.
            httpcore.ConnectTimeout: The last address did not answer in time.
        """
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError for a label that is too long.
            raise httpcore.ConnectError("the name cannot be resolved") from error
        # All of them before any is tried: else a name with a public and a private address would
        # lead to the private one as soon as the public one refuses.
        self._target.check_addresses(addresses, self._settings)
        last_error: Exception = httpcore.ConnectError("the name cannot be resolved")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                remaining_s = self._deadline.remaining_s()
                stream = self._inner.connect_tcp(address, port, remaining_s, None, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
                continue
            try:
                # The kernel may read a text as another address than `ipaddress` does: the socket
                # tells which one it is connected to.
                peer = stream.get_extra_info("server_addr")
                self._target.check_addresses([str(peer[0])], self._settings)
            except BaseException:
                # At an interrupt, too: only this function knows the socket so far.
                stream.close()
                raise
            return BoundedStream(stream, self._deadline)
        raise last_error

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        raise UnsafeUrlError("webhooks are not sent to Unix sockets")


@dataclass(frozen=True, slots=True)
class DeliveryResponse:
    """The result of one attempt."""

    delivered: bool
    reason: str
    """A short reason, for the tenant."""
    gone: bool = False
    """True if the target wants no more messages (410)."""


class WebhookSender:
    """Sends messages. Thread-safe: each message has its own connection."""

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
        """POST a message; errors of the target or the network are part of the result."""
        try:
            status = self._post(WebhookTarget.parse(url, self._settings), headers, body)
        # The reasons are shown to the tenant: none of them names an address of our network.
        except UnsafeUrlError as error:
            return DeliveryResponse(False, f"not sent: {error}")
        except httpcore.TimeoutException:
            return DeliveryResponse(
                False, f"no response within {self._settings.timeout_s:g} seconds"
            )
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return DeliveryResponse(False, _reason(error))
        return DeliveryResponse(200 <= status < 300, f"responded {status}", gone=status == _GONE)

    def _post(self, target: WebhookTarget, headers: Mapping[str, str], body: bytes) -> int:
        """Return the status of the response."""
        backend = PinnedBackend(
            target, self._settings, self._resolve, Deadline(self._settings.timeout_s)
        )
        all_headers = {
            "content-type": "application/json",
            "user-agent": f"dti-webhooks/{__version__}",
            "accept": "*/*",
            "connection": "close",
            **headers,
        }
        encoded = [(name.encode(), value.encode()) for name, value in all_headers.items()]
        with (
            httpcore.ConnectionPool(
                ssl_context=self._tls, max_connections=1, network_backend=backend
            ) as pool,
            # The URL keeps the host's name, which TLS verifies; the backend chooses the address.
            pool.stream(
                "POST",
                httpcore.URL(
                    scheme=target.scheme.encode(),
                    host=target.host.encode(),
                    port=target.port,
                    target=target.target,
                ),
                headers=[(b"host", target.netloc), *encoded],
                content=body,
            ) as response,
        ):
            return response.status  # The body is not read: it could be endless.


def _reason(error: Exception) -> str:
    if isinstance(error, httpcore.ConnectError):
        text = str(error)
        is_tls = "CERTIFICATE" in text or "SSL" in text
        return "the certificate or TLS was refused" if is_tls else "the connection failed"
    return "the connection was closed, or the response was not HTTP"
