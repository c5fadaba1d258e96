"""Single flight: of many who want one thing at once, one goes for it, and the others wait."""

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


def wait(flight: "Future[V]", seconds: float | None = None) -> V:
    """What a flight brings home. Raises: what it does; CancelledError, TimeoutError."""
    try:
        return flight.result(seconds)
    except DTIError as error:
        # A copy: each thread that raises an error writes its traceback into it.
        raise copy.copy(error) from error
    finally:
        del flight  # Of which the error is, whose traceback has this frame.


def _bare(error: Exception) -> Exception:
    return copy.copy(error) if isinstance(error, DTIError) else error


class SingleFlight(Generic[K, V]):
    """By key. What one brought home is for those who waited, and is kept by nobody here."""

    def __init__(self, threads: int) -> None:
        """Threads of its own, for those that are sent."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flights")
        self._lock = threading.Lock()
        self._flights: dict[K, Future[V]] = {}
        self._closed = False

    def join(self, key: K, go: Callable[[], V]) -> V:
        """Wait for the flight that is under way, or `go` in this thread. Raises: as `go`."""
        while True:
            flight, is_ours = self._board(key)
            if is_ours:
                return self._fly(key, flight, go)
            try:
                return wait(flight)
            except CancelledError:
                continue  # Who went was stopped, and says nothing of what there is.

    def send(self, key: K, go: Callable[[], V]) -> "Future[V]":
        """The flight that is under way, or one in another thread; cancelled once closed."""
        flight, is_ours = self._board(key)
        if is_ours:
            try:
                self._pool.submit(self._fly_unseen, key, flight, go)
            except RuntimeError:  # The pool is shut down.
                self._land(key)
                flight.cancel()
        return flight

    def close(self) -> None:
        """Begin none of those that were sent and wait; those under way end by themselves."""
        self._closed = True
        self._pool.shutdown(wait=False)

    def _board(self, key: K) -> "tuple[Future[V], bool]":
        with self._lock:
            if flight := self._flights.get(key):
                return flight, False
            flight = self._flights[key] = Future[V]()
            return flight, True

    def _land(self, key: K) -> None:
        with self._lock:
            del self._flights[key]

    def _fly(self, key: K, flight: "Future[V]", go: Callable[[], V]) -> V:
        # Landed first, so that who comes later does not get an answer that was asked for earlier.
        try:
            found = go()
        except Exception as error:
            self._land(key)
            # Without its traceback, which would keep the flight, so itself, and all that was at
            # hand here until garbage is collected: a token that is found to be deleted, too.
            flight.set_exception(_bare(error))
            raise
        except BaseException:
            self._land(key)
            flight.cancel()
            raise
        self._land(key)
        flight.set_result(found)
        return found

    def _fly_unseen(self, key: K, flight: "Future[V]", go: Callable[[], V]) -> None:
        if self._closed:
            self._land(key)
            flight.cancel()
            return
        try:
            self._fly(key, flight, go)
        except DTIError:
            pass  # Whoever waits gets it.
        except Exception:
            log.exception("flight failed")
