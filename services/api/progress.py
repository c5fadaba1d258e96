"""What workers say of the items that they are at. All leases are read at most once a second,
however many ask, since they are the same for all.
"""

import threading
import time
from collections.abc import Callable

from pydantic import JsonValue

from services.ledger.ledger import Ledger
from services.ledger.workforce import all_leases

Said = dict[int, dict[str, JsonValue]]
"""By index of the item."""


class Progress:
    """Of one process; safe to share between threads."""

    def __init__(
        self, ledger: Ledger, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._read = float("-inf")
        self._said: dict[tuple[str, str], Said] = {}

    def of(self, tenant: str, job: str) -> Said:
        """Of a job's items. Those that have ended meanwhile may still be among them."""
        with self._lock:
            # Whoever comes meanwhile waits for this one.
            if self._clock() - self._read >= self._seconds:
                said: dict[tuple[str, str], Said] = {}
                for lease in all_leases(self._ledger):
                    for held in lease.holds:
                        of_job = said.setdefault((held.tenant, held.job), {})
                        of_job[held.index] = held.progress
                self._said, self._read = said, self._clock()
            return self._said.get((tenant, job), {})
