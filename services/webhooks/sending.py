"""One message to one sink, once: no redirects, no proxy, and of the answer only its status."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpcore
import httpx

from dti_engine import __version__
from services.errors import UnsafeUrlError
from services.webhooks.addresses import Resolve, resolve
from services.webhooks.connection import CheckedBackend, Deadline
from services.webhooks.settings import WebhookSettings
from services.webhooks.sinks import Sink

_GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    delivered: bool
    reason: str
    """In few words, for the tenant."""
    gone: bool = False
    """The sink wants no more of it."""


class Sender:
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

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST it. Never raises for what the sink, its name or its network do."""
        try:
            status = self._post(Sink.parse(url, self._settings), headers, body)
        except UnsafeUrlError as error:
            return Answer(False, f"not sent: {error}")
        except httpcore.TimeoutException:
            return Answer(False, f"no answer within {self._settings.timeout:g} seconds")
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return Answer(False, _why(error))
        return Answer(200 <= status < 300, f"answered {status}", gone=status == _GONE)

    def _post(self, sink: Sink, headers: Mapping[str, str], body: bytes) -> int:
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
