"""An observer of results: it logs each version of each result that it sees."""

import contextlib
import time

from chaos.config import RoundConfig
from chaos.history import HistoryLog, digest
from services.errors import NotFoundError, UnavailableError
from services.ledger.keys import JobKeys, jobs_folder
from services.ledger.ledger import Ledger
from services.ledger.records import ResultRecord, unpack_result


class ResultObserver:
    """Logs each version once."""

    def __init__(self, ledger: Ledger, tenant: str, log: HistoryLog) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._log = log
        self._etags: dict[str, str] = {}

    def observe(self) -> None:
        """Look at all results of all jobs. Raise UnavailableError if the store is away."""
        for job in list(self._ledger.folders(jobs_folder(self._tenant))):
            for head in self._ledger.heads(JobKeys(self._tenant, job).results):
                if self._etags.get(head.key) != head.etag:
                    self._read(head.key)

    def _read(self, key: str) -> None:
        try:
            found = self._ledger.store.read(key)
        except NotFoundError:
            self._log.append("result_vanished", key=key)
            return
        if self._etags.get(key) == found.head.etag:
            return
        self._etags[key] = found.head.etag
        self._log.append(
            "result_seen",
            key=key,
            etag=found.head.etag,
            sha256=digest(found.body),
            live=isinstance(unpack_result(key, found.body)[0], ResultRecord),
        )


def main(ledger: Ledger, config: RoundConfig, log: HistoryLog) -> None:
    """Observe until the process is killed."""
    observer = ResultObserver(ledger, config.tenant, log)
    while True:
        with contextlib.suppress(UnavailableError):
            observer.observe()
        time.sleep(2 * config.poll_interval_s)
