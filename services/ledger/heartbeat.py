"""A worker's heart: a thread that does nothing but renew its lease and hear what was asked for,
whatever else keeps the process busy.
"""

import threading

from services.errors import LeaseLostError
from services.ledger.worker import Worker

_BEATS = 4
"""A lease."""


class Heartbeat:
    """Beats while it is entered."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pause = worker.lease.seconds / _BEATS
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.trouble: Exception | None = None
        """Why the latest beat failed; the worker goes on as long as its lease."""

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.wait(self._pause if self.trouble is None else self._pause / 4):
            try:
                self._worker.beat()
                self.trouble = None
            except LeaseLostError:
                return
            except Exception as error:
                # Whatever it is: a thread that ended for it would take the lease with it.
                self.trouble = error
