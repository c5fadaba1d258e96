"""A client process: it performs one operation after another until the faults have stopped.

An operation that its predecessor invoked without a completion is invoked again first.
"""

import random
import time
from typing import Any

from chaos.config import RoundConfig
from chaos.history import HistoryLog, read_log
from chaos.items import other_request, request_of
from chaos.processes.generator import ClientState, next_operation
from services.contracts.jobs import ItemState
from services.errors import LedgerError, UnavailableError
from services.ledger import deletion, queries, submissions
from services.ledger.ledger import Ledger

FAULTS_STOPPED = "faults-stopped"
"""A file in the round's folder that tells clients to finish."""


class Client:
    """Performs one operation at a time; its log is its memory."""

    def __init__(self, ledger: Ledger, config: RoundConfig, log: HistoryLog) -> None:
        self._ledger = ledger
        self._config = config
        self._log = log
        self._state = ClientState()
        for event in read_log(log.path):
            self._state.update(event)

    def run_operation(self, operation: dict[str, Any] | None = None) -> None:
        """Complete the pending operation, or else this one, or else the generator's next."""
        if self._state.pending is None:
            chosen = operation or next_operation(self._config.seed, self._log.process, self._state)
            chosen = {"n": self._state.next} | chosen
            self._state.update(self._log.append("invoked", **chosen))
        pending = self._state.pending
        assert pending is not None
        answer = self._perform(pending)
        self._state.update(self._log.append("completed", n=pending["n"], **answer))

    @property
    def is_pending(self) -> bool:
        """An operation has not completed."""
        return self._state.pending is not None

    def _perform(self, operation: dict[str, Any]) -> dict[str, Any]:
        while True:
            try:
                return perform(self._ledger, self._config, operation)
            except UnavailableError:
                time.sleep(self._config.poll_interval_s)
            except LedgerError as error:
                return {"error": type(error).__name__, "message": str(error)}


def perform(ledger: Ledger, config: RoundConfig, operation: dict[str, Any]) -> dict[str, Any]:
    """Perform an operation once, and return the fields of its completion."""
    tenant, job = config.tenant, operation.get("job", "")
    match operation["op"]:
        case "submit" | "again" | "other":
            make = other_request if operation["op"] == "other" else request_of
            request = make(config.seed, operation["key"], config.pool)
            submission = submissions.submit(ledger, tenant, operation["key"], request)
            return {"job": submission.job, "created": submission.created}
        case "cancel":
            return {"cancelled": submissions.cancel(ledger, tenant, job)}
        case "retry":
            return {"count": submissions.retry(ledger, tenant, job)}
        case "delete_job":
            deletion.delete_job(ledger, tenant, job)
        case "delete_item":
            deletion.delete_item(ledger, tenant, job, operation["index"])
        case "delete_token":
            deletion.delete_token(ledger, tenant, operation["token"])
            return {"read": _read_token(ledger, tenant, operation["token"])}
        case "view":
            view = queries.view_job(ledger, tenant, job)
            return {"total": view.counts.total, "count": view.count, "state": view.state.value}
        case _:
            page = queries.list_items(ledger, tenant, job, limit=5, state=ItemState.SUCCEEDED)
            return {"tokens": [item.token for item in page.items if item.token]}
    return {}


def _read_token(ledger: Ledger, tenant: str, token: str) -> str:
    """Return the name of the error that reading a token raises."""
    try:
        queries.read_token(ledger, tenant, token)
    except LedgerError as error:
        return type(error).__name__
    return "its payload"


def main(ledger: Ledger, config: RoundConfig, log: HistoryLog) -> None:
    """Perform operations until the faults have stopped and none is pending."""
    client = Client(ledger, config, log)
    while client.is_pending or not log.path.with_name(FAULTS_STOPPED).exists():
        client.run_operation()
        time.sleep(random.uniform(0, 2 * config.request_interval_s))
    log.append("done")
