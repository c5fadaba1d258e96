"""Clients of a simulated service: they submit, look, cancel, retry and delete, and repeat what was
not answered, as whoever comes after a crash would.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from chaos.simulation.history import Answer, History, Observation
from chaos.simulation.process import Process
from chaos.simulation.worker_process import POOL
from services.contracts.jobs import Item, JobRequest
from services.errors import ConflictError, DeletedError, StorageError, UnknownJobError
from services.ledger import deletion, submissions
from services.ledger import queries as reading
from services.ledger.ledger import Ledger

T = TypeVar("T")

TENANTS = ("acme", "bolt")
_TRIES = 12


@dataclass
class Plan:
    """What one client is about to do. It outlives its process, like a file would."""

    tenant: str
    key: str
    request: JobRequest
    acts: list[str]
    """What is still to do once it is submitted, in order."""
    job: str = ""


def draw_plan(chance: random.Random, number: int) -> Plan:
    fates = ["ok"] * 12 + ["bad", "flaky"] + (["poison"] if chance.random() < 0.2 else [])
    items = tuple(
        Item(
            name=f"subject {index}",
            work={
                "steps": chance.randint(1, 6),
                "every": chance.randint(1, 3),
                "fate": chance.choice(fates),
            },
        )
        for index in range(chance.choice((1, 1, 2, 3, 5)))
    )
    acts = ["look"] * chance.randrange(3)
    for act, likely in (
        ("cancel", 0.25),
        ("retry", 0.3),
        ("delete item", 0.3),
        ("delete job", 0.15),
        ("submit again", 0.3),
        ("submit otherwise", 0.2),
        ("delete tenant", 0.03),
    ):
        if chance.random() < likely:
            acts.insert(chance.randint(0, len(acts)), act)
    request = JobRequest(pool=POOL, items=items, max_attempts=chance.choice((1, 2, 3, 4)))
    return Plan(chance.choice(TENANTS), f"key {number}", request, acts)


class Customer:
    """One client's process, at a plan."""

    def __init__(
        self,
        process: Process,
        open_ledger: Callable[[Process], Ledger],
        history: History,
        plan: Plan,
    ) -> None:
        self._process = process
        self._ledger = open_ledger(process)
        self._history = history
        self._plan = plan

    def run(self) -> None:
        chance = self._process.world.random
        self._process.sleep(chance.uniform(0, 6))
        while not self._plan.job:
            self._submit()
        while self._plan.acts:
            self._process.sleep(chance.uniform(0, 12))
            self._do(self._plan.acts[0])
            self._plan.acts.pop(0)

    def _do(self, act: str) -> None:
        plan, ledger = self._plan, self._ledger
        tenant, job = plan.tenant, plan.job
        index = self._process.world.random.randrange(len(plan.request.items))
        if act == "look":
            self._look()
        elif act == "cancel":
            self._ask(act, lambda: submissions.cancel(ledger, tenant, job))
        elif act == "retry":
            self._ask(act, lambda: submissions.retry(ledger, tenant, job))
        elif act == "delete item":
            self._ask(act, lambda: deletion.delete_item(ledger, tenant, job, index), index)
        elif act == "delete job":
            self._ask(act, lambda: deletion.delete_job(ledger, tenant, job))
        elif act == "delete tenant":
            self._ask(act, lambda: deletion.delete_tenant(ledger, tenant))
        elif act == "submit again":
            self._submit()
        elif act == "submit otherwise":
            self._submit_otherwise()

    def _submit(self) -> None:
        plan = self._plan
        asked = self._process.world.now
        try:
            made = submissions.submit(self._ledger, plan.tenant, plan.key, plan.request)
        except DeletedError:
            plan.job = plan.job or "none"
            plan.acts = [] if plan.job == "none" else plan.acts
            return
        except StorageError:
            self._process.sleep(1)
            return
        if plan.job not in ("", made.job):
            self._history.wrong.append(f"{plan.key!r} made both {plan.job} and {made.job}")
        plan.job = made.job
        self._note("submit", asked, count=len(plan.request.items))

    def _submit_otherwise(self) -> None:
        plan = self._plan
        other = plan.request.model_copy(update={"tags": {"other": "yes"}})
        try:
            made = submissions.submit(self._ledger, plan.tenant, plan.key, other)
        except (ConflictError, StorageError):
            return
        except DeletedError:
            return
        # After the tenant's deletion the key is free again, but nothing can be submitted.
        self._history.wrong.append(f"{plan.key!r} was taken for another request, as {made.job}")

    def _look(self) -> None:
        plan, asked = self._plan, self._process.world.now
        try:
            page = reading.list_items(self._ledger, plan.tenant, plan.job)
        except (StorageError, DeletedError, UnknownJobError):
            return
        self._history.observations.append(
            Observation(
                asked,
                self._process.world.now,
                plan.tenant,
                plan.job,
                tuple(item.state for item in page.items),
            )
        )

    def _ask(self, act: str, call: Callable[[], object], index: int = -1) -> None:
        for _ in range(_TRIES):
            asked = self._process.world.now
            try:
                answer = call()
            except (ConflictError, DeletedError, UnknownJobError):
                return
            except StorageError:
                self._process.sleep(1)
                continue
            count = answer if isinstance(answer, int) else 0
            self._note(act, asked, index=index, count=count)
            return

    def _note(self, what: str, asked: float, *, index: int = -1, count: int = 0) -> None:
        plan = self._plan
        self._history.answers.append(
            Answer(
                asked,
                self._process.world.now,
                what,
                plan.tenant,
                plan.job,
                index,
                plan.key,
                count,
            )
        )
