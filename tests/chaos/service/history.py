"""A journal of what comes to lie in the store: results, claims, their ends, and who lives."""

import threading
from types import TracebackType
from typing import Any

from chaos.processes.lines import Log
from chaos.processes.observer import Observer
from services.errors import UnavailableError
from services.ledger.keys import WORKERS_FOLDER, JobKeys, jobs_folder, parse_item_ref
from services.ledger.leases import read_lease
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, EndedRecord, unpack

_PAUSE = 0.2
"""Seconds between two looks: by so much, and the look itself, a time may be late."""


class Journal:
    """Kept while it is entered, of one tenant. Says each thing once, when it was first seen."""

    def __init__(self, ledger: Ledger, tenant: str, log: Log) -> None:
        self._ledger, self._tenant, self._log = ledger, tenant, log
        self._observer = Observer(ledger, tenant, log)
        self._known = set[str]()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._trouble: Exception | None = None

    def __enter__(self) -> "Journal":
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
        if self._trouble and error is None:
            raise self._trouble

    def look(self) -> None:
        """Once. Raises: UnavailableError."""
        # In the order in which they are written.
        for head in self._ledger.heads(WORKERS_FOLDER):
            worker = head.key.removeprefix(WORKERS_FOLDER)
            if head.key not in self._known and read_lease(self._ledger, worker):
                self._known.add(head.key)
                self._log.say("lives", worker=worker)
        for job in list(self._ledger.folders(jobs_folder(self._tenant))):
            self._look_at_attempts(JobKeys(self._tenant, job))
        self._observer.look()

    def _look_at_attempts(self, keys: JobKeys) -> None:
        for head in self._ledger.heads(keys.attempts):
            if head.key in self._known or not (found := self._ledger.find(head.key)):
                continue
            self._known.add(head.key)
            place, (number, *ended) = parse_item_ref(head.key.removeprefix(keys.attempts))
            of: dict[str, Any] = {"job": keys.job, "round": place.round, "index": place.index}
            told = of | {"number": int(number)}
            if ended:
                record = unpack(head.key, found[1], EndedRecord)[0]
                self._log.say("over", **told, cause=record.cause)
            else:
                worker = unpack(head.key, found[1], ClaimRecord)[0].worker
                self._log.say("claimed", **told, worker=worker)

    def _run(self) -> None:
        while True:
            # Once more after it was told to stop, so that it knows all that there is.
            last = self._stopped.wait(_PAUSE)
            try:
                self.look()
            except UnavailableError as error:
                self._log.say("unavailable", error=str(error))
            except Exception as error:
                self._trouble = error
                return
            if last:
                return
