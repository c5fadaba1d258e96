"""An observer of the store: results, claims, ends of attempts, and workers, as they appear."""

import threading
from types import TracebackType

from chaos.history import HistoryLog
from chaos.observer import ResultObserver
from services.errors import UnavailableError
from services.ledger.keys import WORKERS_FOLDER, JobKeys, jobs_folder, parse_item_ref
from services.ledger.leases import read_lease
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, EndedRecord, unpack

_POLL_INTERVAL_S = 0.2
"""The logged times may be late by this, and by what one observation takes."""


class StoreObserver:
    """Observes one tenant while it is entered, and logs each thing when it is first seen."""

    def __init__(self, ledger: Ledger, tenant: str, log: HistoryLog) -> None:
        self._ledger, self._tenant, self._log = ledger, tenant, log
        self._results = ResultObserver(ledger, tenant, log)
        self._seen = set[str]()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> "StoreObserver":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._error and error is None:
            raise self._error

    def observe(self) -> None:
        """Observe once. Raise UnavailableError if the store is away."""
        # In the order in which they are written: a claim must not be seen before its worker.
        for head in self._ledger.heads(WORKERS_FOLDER):
            worker = head.key.removeprefix(WORKERS_FOLDER)
            if head.key not in self._seen and read_lease(self._ledger, worker):
                self._seen.add(head.key)
                self._log.append("worker_seen", worker=worker)
        for job in list(self._ledger.folders(jobs_folder(self._tenant))):
            self._observe_attempts(JobKeys(self._tenant, job))
        self._results.observe()

    def _observe_attempts(self, keys: JobKeys) -> None:
        for head in self._ledger.heads(keys.attempts):
            if head.key in self._seen or not (found := self._ledger.find(head.key)):
                continue
            self._seen.add(head.key)
            item_ref, (number, *ended) = parse_item_ref(head.key.removeprefix(keys.attempts))
            attempt = {
                "job": keys.job,
                "round": item_ref.round,
                "index": item_ref.index,
                "number": int(number),
            }
            if ended:
                record = unpack(head.key, found[1], EndedRecord)[0]
                self._log.append("attempt_end_seen", **attempt, cause=record.cause)
            else:
                worker = unpack(head.key, found[1], ClaimRecord)[0].worker
                self._log.append("claim_seen", **attempt, worker=worker)

    def _run(self) -> None:
        while True:
            # Once more after the stop, so that the log has everything that is there.
            is_last = self._stopped.wait(_POLL_INTERVAL_S)
            try:
                self.observe()
            except UnavailableError as error:
                self._log.append("unavailable", error=str(error))
            except Exception as error:
                self._error = error  # Raised again, with its traceback, by `__exit__`.
                return
            if is_last:
                return
