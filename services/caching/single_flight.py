"""Single flight: concurrent calls for one key share one execution and its result."""

import copy
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from dti_engine.errors import DTIError
from services import logs

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

log = logs.logger(__name__)


def wait(future: "Future[V]", timeout_s: float | None = None) -> V:
    """Return the result of a call.

    Raises:
        CancelledError: The call was cancelled.
        TimeoutError: The call is still running after `timeout_s`.
        Exception: Whatever the call raised.
    """
    try:
        return future.result(timeout_s)
    except DTIError as error:
        # Each waiting thread raises a copy, because raising writes a traceback into the error.
        raise copy.copy(error) from error
    finally:
        # The traceback of an error refers to this frame, and the future refers to the error: this
        # breaks the reference cycle.
        del future


class SingleFlight(Generic[K, V]):
    """Shares one execution between concurrent calls of a key. Results are not kept. Thread-safe."""

    def __init__(self, threads: int = 1) -> None:
        """Create an instance with so many threads of its own for `submit`."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="single-flight")
        self._lock = threading.Lock()
        self._running: dict[K, Future[V]] = {}
        self._closed = False

    def run(self, key: K, call: Callable[[], V]) -> V:
        """Return the result of the running call of `key`, or of `call`, made in this thread."""
        while True:
            future, is_new = self._join(key)
            if is_new:
                return self._execute(key, future, call)
            try:
                return wait(future)
            except CancelledError:
                # The thread that made the call was interrupted, which says nothing about the key.
                continue

    def submit(self, key: K, call: Callable[[], V]) -> "Future[V]":
        """Return the running call of `key`, or begin `call` in a thread of the pool.

        The future is cancelled if the instance is closed before the call begins.
        """
        future, is_new = self._join(key)
        if is_new:
            try:
                self._pool.submit(self._execute_in_background, key, future, call)
            except RuntimeError:  # The pool is shut down.
                self._leave(key)
                future.cancel()
        return future

    def is_running(self, key: K) -> bool:
        """Return whether a call of `key` is running."""
        return key in self._running

    def close(self) -> None:
        """Cancel submitted calls that have not begun; running calls go on to their end."""
        self._closed = True
        self._pool.shutdown(wait=False)

    def _join(self, key: K) -> "tuple[Future[V], bool]":
        """Return the future of `key`, and whether it is new and this caller has to fulfil it."""
        with self._lock:
            if future := self._running.get(key):
                return future, False
            future = self._running[key] = Future[V]()
            return future, True

    def _leave(self, key: K) -> None:
        with self._lock:
            del self._running[key]

    def _execute(self, key: K, future: "Future[V]", call: Callable[[], V]) -> V:
        # The key is released before the future is fulfilled, so that a later caller starts a call
        # of its own and never gets a result that was read before it asked.
        try:
            result = call()
        except BaseException as error:
            self._leave(key)
            if isinstance(error, DTIError):
                # The stored copy has no traceback. With one, it would keep the frames of `call`
                # and their data, such as a deleted token, until the next garbage collection.
                future.set_exception(copy.copy(error))
            elif isinstance(error, Exception):
                # Logged here, because no thread may be waiting for the future of a background call.
                log.exception("shared call failed")
                future.set_exception(error)
            else:
                # An interrupt of this thread says nothing about the key: waiting threads retry.
                future.cancel()
            raise
        self._leave(key)
        future.set_result(result)
        return result

    def _execute_in_background(self, key: K, future: "Future[V]", call: Callable[[], V]) -> None:
        if self._closed:
            self._leave(key)
            future.cancel()
            return
        # What it raises stays in the pool's own future: `wait` raises it from ours.
        self._execute(key, future, call)
