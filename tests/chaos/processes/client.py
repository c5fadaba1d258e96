"""A client's process: it asks for one thing after another, until the faults have ended.

What its predecessor asked for without hearing an answer, it asks for again at first.
"""

import random
import time
from typing import Any

from chaos.processes.generator import Plan
from chaos.processes.items import other_request, request_of
from chaos.processes.lines import Log, read_log
from chaos.processes.requests import Memory, choose
from services.contracts.jobs import ItemState
from services.errors import LedgerError, UnavailableError
from services.ledger import deletion, submissions
from services.ledger import queries as reading
from services.ledger.ledger import Ledger

CALM = "calm"
"""A file in the round's folder: the faults have ended."""


class Client:
    """Asks one thing at a time, and remembers it by its log."""

    def __init__(self, ledger: Ledger, plan: Plan, log: Log) -> None:
        self._ledger = ledger
        self._plan = plan
        self._log = log
        self._memory = Memory()
        for line in read_log(log.path):
            self._memory.note(line)

    def turn(self, asked: dict[str, Any] | None = None) -> None:
        """Ask for one thing, until there is an answer."""
        if self._memory.pending is None:
            asked = asked or choose(self._plan.seed, self._log.who, self._memory)
            asked = {"n": self._memory.next} | asked
            self._memory.note(self._log.say("asked", **asked))
        asked = self._memory.pending
        assert asked is not None
        self._memory.note(self._log.say("answered", n=asked["n"], **self._answer(asked)))

    @property
    def waits(self) -> bool:
        """An answer is missing."""
        return self._memory.pending is not None

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        while True:
            try:
                return perform(self._ledger, self._plan, asked)
            except UnavailableError:
                time.sleep(self._plan.look)
            except LedgerError as error:
                return {"error": type(error).__name__, "says": str(error)}


def perform(ledger: Ledger, plan: Plan, asked: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for, once, and return the answer."""
    tenant, job = plan.tenant, asked.get("job", "")
    match asked["op"]:
        case "submit" | "again" | "other":
            make = other_request if asked["op"] == "other" else request_of
            request = make(plan.seed, asked["key"], plan.pool)
            made = submissions.submit(ledger, tenant, asked["key"], request)
            return {"job": made.job, "created": made.created}
        case "cancel":
            return {"did": submissions.cancel(ledger, tenant, job)}
        case "retry":
            return {"count": submissions.retry(ledger, tenant, job)}
        case "delete_job":
            deletion.delete_job(ledger, tenant, job)
        case "delete_item":
            deletion.delete_item(ledger, tenant, job, asked["index"])
        case "delete_token":
            deletion.delete_token(ledger, tenant, asked["token"])
            return {"read": _reading(ledger, tenant, asked["token"])}
        case "view":
            view = reading.view_job(ledger, tenant, job)
            return {"total": view.counts.total, "count": view.count, "state": view.state.value}
        case _:
            items = reading.list_items(ledger, tenant, job, limit=5, state=ItemState.SUCCEEDED)
            return {"tokens": [item.token for item in items.items if item.token]}
    return {}


def _reading(ledger: Ledger, tenant: str, token: str) -> str:
    """What comes of it."""
    try:
        reading.read_token(ledger, tenant, token)
    except LedgerError as error:
        return type(error).__name__
    return "its payload"


def main(ledger: Ledger, plan: Plan, log: Log) -> None:
    client = Client(ledger, plan, log)
    while client.waits or not log.path.with_name(CALM).exists():
        client.turn()
        time.sleep(random.uniform(0, 2 * plan.gap))
    log.say("done")
