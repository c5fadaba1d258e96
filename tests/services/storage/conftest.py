"""A proxy that loses requests and answers on demand."""

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Proxy(ThreadingHTTPServer):
    """Passes requests on to an S3 server, but for those that `faults` has something for.

    `faults` maps a method to what happens to its next requests, one word each; `seen` has all
    requests as "METHOD path". Words: `pass`; a status, which is answered without passing on;
    `lose` (nothing is passed on, the connection breaks); `lose-answer` and `STATUS-after` (passed
    on, then the same); `hang` (passed on, no answer in time); `cut` (the answer breaks off
    before its last byte); `twice` (passed on two times).
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.upstream = upstream.removeprefix("http://")
        self.faults: dict[str, list[str]] = {}
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.done = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {self.path.partition('?')[0]}")
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        faults = self.server.faults.get(self.command, [])
        fault = faults.pop(0) if faults else "pass"
        if fault == "lose":
            self.close_connection = True
            return
        if fault.isdecimal():
            self._send(int(fault), {}, b"")
            return
        status, headers, content = self._pass(body)
        if fault == "twice":
            status, headers, content = self._pass(body)
        if fault == "hang":
            self.server.done.wait(10)
        if fault in ("hang", "lose-answer"):
            self.close_connection = True
        elif fault == "cut":
            self.close_connection = True
            self._send(status, headers, content, cut=1)
        elif fault.endswith("-after"):
            self._send(int(fault.removesuffix("-after")), {}, b"")
        else:
            self._send(status, headers, content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

    def _pass(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in ("connection", "transfer-encoding", "server")
        }
        content = answer.read()
        connection.close()
        return answer.status, headers, content

    def _send(self, status: int, headers: dict[str, str], content: bytes, cut: int = 0) -> None:
        self.send_response_only(status)
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(content))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) - cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(server: Any) -> Iterator[Proxy]:
    proxy = Proxy(server.endpoint)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield proxy
    proxy.done.set()
    proxy.shutdown()
    thread.join()
    proxy.server_close()
