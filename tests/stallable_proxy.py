"""A TCP proxy before a real S3 server, which can fall silent as a hung server does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class StallableProxy:
    """Passes bytes on both ways; while `stall`ed, it takes connections and bytes, and passes none.

    What was held back is passed on once it resumes. Without an upstream it is always silent.
    """

    def __init__(self, upstream: str = "") -> None:
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port or 80)) if upstream else None
        self._passes = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._sockets = [self._listener]
        self.accepted = 0
        if upstream:
            self._passes.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stall(self) -> None:
        self._passes.clear()

    def resume(self) -> None:
        self._passes.set()

    def accept(self) -> None:
        """Serve connections until the proxy is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._passes.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, client: socket.socket) -> None:
        self._passes.wait()
        if self._upstream is None:
            return
        with suppress(OSError):
            server = socket.create_connection(self._upstream)
            self._sockets.append(server)
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
            self._pass(client, server)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def stallable_proxy(upstream: str = "") -> Iterator[StallableProxy]:
    """Yield a proxy that serves on threads of its own."""
    proxy = StallableProxy(upstream)
    threading.Thread(target=proxy.accept, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
