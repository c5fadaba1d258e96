"""The monitor of a store: probes it when a process starts, and pings it while there is doubt."""

import threading
from collections.abc import Callable

from dti_engine.errors import DTIError
from services import logs
from services.errors import StorageError, UnavailableError
from services.process import error_boundary
from services.storage.gate import StoreGate
from services.storage.instrumented import InstrumentedStore
from services.storage.interface import Store
from services.storage.probe_record import KEY, ensure_probed

_INTERVAL_S = 1.0
"""Time without an answer after which the store is pinged, and between pings of a silent store."""

_MIN_PAUSE_S = 0.2
"""Time between two pings of a store that answers them while calls fail, as on a full disk."""

log = logs.logger(__name__)


class StoreMonitor:
    """A thread that probes a store once, and from then on shuts and opens the gate before it."""

    def __init__(self, store: Store, gate: StoreGate) -> None:
        """Create a monitor, which begins with `start`.

        Args:
            store: The store itself, without the gate.
            gate: The gate, which is shut until the store has passed the probe.
        """
        self._store, self._gate = store, gate
        # With connections and timeouts of its own, and with metrics: while the gate is shut, there
        # are no other calls that an alert could count.
        self._pinged = InstrumentedStore(store.for_leases())
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._stopped = threading.Event()
        self._refusal: DTIError | None = None
        self._on_refused: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="store monitor", daemon=True)

    def start(self) -> None:
        """Begin to probe the store."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread, and wait for it; a call to a silent store may outlive the timeout."""
        self._stopped.set()
        self._gate.record_failure()  # wakes it
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def wait_until_probed(self, timeout_s: float) -> bool:
        """Wait for the probe, and return whether it has passed. Raise the error of a refusal."""
        is_settled = self._settled.wait(timeout_s)
        self.check()
        return is_settled

    def check(self) -> None:
        """Raise the error with which the store was refused, if it was."""
        if self._refusal:
            raise self._refusal

    def call_when_refused(self, action: Callable[[], object]) -> None:
        """Call `action` when the store is refused, or at once if it already is."""
        with self._lock:
            self._on_refused = action
            is_refused = self._refusal is not None
        if is_refused:
            action()

    def _run(self) -> None:
        while not self._stopped.is_set() and not self._settled.is_set():
            with error_boundary("probing the store failed"):
                self._probe()
        while not self._stopped.is_set() and not self._refusal:
            if self._gate.wait_for_doubt(_INTERVAL_S):
                with error_boundary("pinging the store failed"):
                    self._ping()
                self._stopped.wait(_INTERVAL_S if self._gate.is_shut else _MIN_PAUSE_S)

    def _probe(self) -> None:
        try:
            ensure_probed(self._store)
        except UnavailableError as error:
            log.warning("waiting for the store", store=self._store.url, reason=str(error))
            self._stopped.wait(_INTERVAL_S)
        except DTIError as error:
            with self._lock:
                self._refusal = error
            self._settled.set()
            self._on_refused()
        else:
            with self._gate.ping():
                pass  # The probe itself was the ping.
            self._settled.set()

    def _ping(self) -> None:
        """Ask the store for its record: any answer will do, also that there is none."""
        was_shut = self._gate.is_shut
        try:
            with self._gate.ping():
                try:
                    self._pinged.head(KEY)
                except UnavailableError:
                    raise
                except StorageError:
                    pass
        except UnavailableError as error:
            if not was_shut:
                log.warning("store does not answer: requests are refused", reason=str(error))
        else:
            if was_shut:
                log.info("store answers again")
