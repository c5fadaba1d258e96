"""A DNS server for the names of Services, because Ray's gRPC does not wait for /etc/hosts alone."""

import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress

_A = 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
_TTL_S = 5


class NameServer:
    """Answers questions for addresses by UDP, from names that may change meanwhile."""

    def __init__(self, address: str, hosts: Mapping[str, str]) -> None:
        self._hosts = hosts
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(0.2)
        self._socket.bind((address, 53))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # The thread first: a socket that a thread waits at keeps its port after it is closed.
        self._closed.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with suppress(TimeoutError):
                question, client = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(question), client)

    def _answer(self, message: bytes) -> bytes:
        labels, end = list[str](), 12
        while length := message[end]:
            labels.append(message[end + 1 : end + 1 + length].decode())
            end += 1 + length
        (kind,) = struct.unpack_from(">H", message, end + 1)
        question = message[12 : end + 5]
        address = self._hosts.get(".".join(labels).lower())
        record = b""
        if address and kind == _A:
            # The name is a pointer to that of the question, at byte 12.
            record = struct.pack(">HHHIH", 0xC00C, _A, 1, _TTL_S, 4) + socket.inet_aton(address)
        flags = _ANSWER if address else _NO_SUCH_NAME
        head = struct.pack(">5H", flags, 1, int(bool(record)), 0, 0)
        return message[:2] + head + question + record
