"""A process that answers nothing else shows its metrics at /metrics of a port of its own."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from services.metrics.prometheus import PrometheusMetrics


def serve(metrics: PrometheusMetrics, port: int, host: str = "0.0.0.0") -> ThreadingHTTPServer:
    """Answer on a thread of its own, until the process ends. port: 0: any that is free.

    Raises: OSError if the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body, media_type = metrics.exposition()
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not in the log: it is asked every few seconds."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
