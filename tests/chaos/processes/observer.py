"""An observer's process: it says which versions of which results it has seen."""

import contextlib
import hashlib
import time

from chaos.processes.generator import Plan
from chaos.processes.lines import Log
from services.errors import NotFoundError, UnavailableError
from services.ledger.keys import JobKeys, jobs_folder
from services.ledger.ledger import Ledger
from services.ledger.records import ResultRecord, unpack_result


class Observer:
    """Says each version once."""

    def __init__(self, ledger: Ledger, tenant: str, log: Log) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._log = log
        self._seen: dict[str, str] = {}

    def look(self) -> None:
        """At all results of all jobs. Raises: UnavailableError."""
        for job in list(self._ledger.folders(jobs_folder(self._tenant))):
            for head in self._ledger.heads(JobKeys(self._tenant, job).results):
                if self._seen.get(head.key) != head.etag:
                    self._read(head.key)

    def _read(self, key: str) -> None:
        try:
            there = self._ledger.store.read(key)
        except NotFoundError:
            self._log.say("vanished", key=key)
            return
        if self._seen.get(key) == there.head.etag:
            return
        self._seen[key] = there.head.etag
        self._log.say(
            "saw",
            key=key,
            etag=there.head.etag,
            sha256=hashlib.sha256(there.body).hexdigest(),
            live=isinstance(unpack_result(key, there.body)[0], ResultRecord),
        )


def main(ledger: Ledger, plan: Plan, log: Log) -> None:
    observer = Observer(ledger, plan.tenant, log)
    while True:
        with contextlib.suppress(UnavailableError):
            observer.look()
        time.sleep(2 * plan.look)
