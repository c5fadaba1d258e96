"""A DNS server for the names of Services, because Ray's gRPC does not wait for /etc/hosts alone."""

import socket
import struct
import threading
from collections.abc import Mapping

_A = 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
_TTL_S = 5


class NameServer:
    """Answers questions for addresses by UDP, from names that may change meanwhile."""

    def __init__(self, address: str, hosts: Mapping[str, str]) -> None:
        self._hosts = hosts
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                question, client = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(question), client)
            except OSError:  # the socket is closed
                return

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
