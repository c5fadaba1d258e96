"""moto, an S3 server in this process, with conditional writes that are atomic.

moto compares and writes in two steps, and serves each request in a thread of its own. So on a busy
machine two of many concurrent creations can both succeed, and the probe rightly refuses it.
"""

import threading
from typing import Any

from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

_lock = threading.Lock()
_put_object = S3Response.put_object


def _put_object_in_turn(response: S3Response) -> Any:
    with _lock:
        return _put_object(response)


def start_moto(ip_address: str = "127.0.0.1") -> ThreadedMotoServer:
    """Start a server on a free port. moto has one state for all servers of a process."""
    S3Response.put_object = _put_object_in_turn
    server = ThreadedMotoServer(ip_address=ip_address, port=0)
    server.start()
    return server
