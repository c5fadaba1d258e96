"""Probes of processes that serve no HTTP of their own: /healthz, and other pages beside it."""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from services import logs
from services.errors import SettingsError
from services.metrics import PrometheusMetrics

log = logs.logger(__name__)

_CONNECTION_TIMEOUT_S = 10
"""Time that a client may be silent. Each connection has a thread."""


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """An answer to a GET request."""

    status: int
    media_type: str
    body: bytes


class Liveness:
    """Knows when each loop of a process last came round. Thread-safe."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """timeout_s: the age of a loop's last turn at which the process counts as stalled."""
        self._timeout_s, self._clock = timeout_s, clock
        self._turns: dict[str, float] = {}

    def beat(self, loop: str) -> None:
        """Note that a loop has come round, whether its turn succeeded or failed."""
        self._turns[loop] = self._clock()

    def page(self) -> ProbeResponse:
        """Return the answer of /healthz: 200, or 503 if a loop stands still."""
        now = self._clock()
        ages_s = {loop: round(now - turn, 1) for loop, turn in self._turns.copy().items()}
        stalled = any(age_s > self._timeout_s for age_s in ages_s.values())
        answer = {"status": "stalled" if stalled else "ok", "ages_s": ages_s}
        return ProbeResponse(
            503 if stalled else 200, "application/json", json.dumps(answer).encode()
        )


def metrics_page(exporter: PrometheusMetrics) -> ProbeResponse:
    """Return the answer of /metrics."""
    body, media_type = exporter.exposition()
    return ProbeResponse(200, media_type, body)


class _PageServer(ThreadingHTTPServer):
    """A server that logs errors; the standard one prints them past the log."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log the error of a page with its traceback, unless the client has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("page failed")


def serve_pages(
    pages: Mapping[str, Callable[[], ProbeResponse]], port: int, host: str = "0.0.0.0"
) -> ThreadingHTTPServer:
    """Serve pages, by their paths, on a thread of its own until the process ends.

    port: 0: any free one. Raises: SettingsError if the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _CONNECTION_TIMEOUT_S

        def do_GET(self) -> None:
            if self.path not in pages:
                self.send_error(404)
                return
            page = pages[self.path]()
            self.send_response(page.status)
            self.send_header("Content-Type", page.media_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: probes and Prometheus ask every few seconds."""

    try:
        server = _PageServer((host, port), Handler)
    except OSError as error:
        raise SettingsError(f"cannot listen on port {port}: {error.strerror}") from error
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
    return server
