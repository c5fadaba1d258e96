"""The generator: simulated clients that submit, observe, cancel, retry, delete and erase.

An operation without an answer is repeated, by the client or by its replacement after a crash.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from chaos.simulation.history import Completion, History, Observation
from chaos.simulation.process import Process
from chaos.simulation.worker_process import POOL
from services.contracts.jobs import JobItem, JobRequest
from services.errors import ConflictError, DeletedError, StorageError, UnknownJobError
from services.ledger import deletion, queries, submissions
from services.ledger.jobs import redact_spec
from services.ledger.keys import JobKeys
from services.ledger.ledger import Ledger

T = TypeVar("T")

TENANTS = ("acme", "bolt")
_MAX_TRIES = 12


@dataclass
class Workload:
    """The operations of one client. It outlives the process, as a file would."""

    tenant: str
    key: str
    request: JobRequest
    actions: list[str]
    """Actions that remain after the submission, in order."""
    job: str = ""


def draw_workload(rng: random.Random, number: int) -> Workload:
    """Draw the job and the operations of a client."""
    scripts = ["ok"] * 12 + ["bad", "flaky"] + (["poison"] if rng.random() < 0.2 else [])
    items = tuple(
        JobItem(
            name=f"subject {index}",
            work={
                "steps": rng.randint(1, 6),
                "every": rng.randint(1, 3),
                "script": rng.choice(scripts),
            },
        )
        for index in range(rng.choice((1, 1, 2, 3, 5)))
    )
    actions = ["observe"] * rng.randrange(3)
    for action, probability in (
        ("cancel", 0.25),
        ("retry", 0.3),
        ("delete item", 0.3),
        ("erase item", 0.15),
        ("delete job", 0.15),
        ("submit again", 0.3),
        ("submit otherwise", 0.2),
        ("delete tenant", 0.03),
    ):
        if rng.random() < probability:
            actions.insert(rng.randint(0, len(actions)), action)
    request = JobRequest(pool=POOL, items=items, max_attempts=rng.choice((1, 2, 3, 4)))
    return Workload(rng.choice(TENANTS), f"key {number}", request, actions)


class SimulatedClient:
    """The process of one client."""

    def __init__(
        self,
        process: Process,
        open_ledger: Callable[[Process], Ledger],
        history: History,
        workload: Workload,
    ) -> None:
        self._process = process
        self._ledger = open_ledger(process)
        self._history = history
        self._workload = workload

    def run(self) -> None:
        rng = self._process.world.random
        self._process.sleep(rng.uniform(0, 6))
        while not self._workload.job:
            self._submit()
        while self._workload.actions:
            self._process.sleep(rng.uniform(0, 12))
            self._perform(self._workload.actions[0])
            self._workload.actions.pop(0)

    def _perform(self, action: str) -> None:
        workload, ledger = self._workload, self._ledger
        tenant, job = workload.tenant, workload.job
        index = self._process.world.random.randrange(len(workload.request.items))
        if action == "observe":
            self._observe()
        elif action == "cancel":
            self._invoke(action, lambda: submissions.cancel(ledger, tenant, job))
        elif action == "retry":
            self._invoke(action, lambda: submissions.retry(ledger, tenant, job))
        elif action == "delete item":
            self._invoke(action, lambda: deletion.delete_item(ledger, tenant, job, index), index)
        elif action == "erase item":
            self._invoke(action, lambda: self._erase_item(index), index)
        elif action == "delete job":
            self._invoke(action, lambda: deletion.delete_job(ledger, tenant, job))
        elif action == "delete tenant":
            self._invoke(action, lambda: deletion.delete_tenant(ledger, tenant))
        elif action == "submit again":
            self._submit()
        elif action == "submit otherwise":
            self._submit_otherwise()

    def _erase_item(self, index: int) -> None:
        """Erase an item as the API does: delete it first, and redact the spec at the end."""
        workload = self._workload
        keys = JobKeys(workload.tenant, workload.job)
        deletion.delete_item(self._ledger, workload.tenant, workload.job, index)
        redact_spec(self._ledger, keys, {index})

    def _submit(self) -> None:
        workload = self._workload
        invoked_at = self._process.world.now
        try:
            submission = submissions.submit(
                self._ledger, workload.tenant, workload.key, workload.request
            )
        except DeletedError:
            workload.job = workload.job or "none"
            workload.actions = [] if workload.job == "none" else workload.actions
            return
        except StorageError:
            self._process.sleep(1)
            return
        if workload.job not in ("", submission.job):
            self._history.anomalies.append(
                f"{workload.key!r} made both {workload.job} and {submission.job}"
            )
        workload.job = submission.job
        self._complete("submit", invoked_at, count=len(workload.request.items))

    def _submit_otherwise(self) -> None:
        workload = self._workload
        other = workload.request.model_copy(update={"tags": {"other": "yes"}})
        try:
            submission = submissions.submit(self._ledger, workload.tenant, workload.key, other)
        except (ConflictError, StorageError):
            return
        except DeletedError:
            return
        # After the tenant's deletion the key is free again, but nothing can be submitted.
        self._history.anomalies.append(
            f"{workload.key!r} was taken for another request, as {submission.job}"
        )

    def _observe(self) -> None:
        workload, invoked_at = self._workload, self._process.world.now
        try:
            page = queries.list_items(self._ledger, workload.tenant, workload.job)
        except (StorageError, DeletedError, UnknownJobError):
            return
        self._history.observations.append(
            Observation(
                invoked_at,
                self._process.world.now,
                workload.tenant,
                workload.job,
                tuple(item.state for item in page.items),
            )
        )

    def _invoke(self, action: str, call: Callable[[], object], index: int = -1) -> None:
        for _ in range(_MAX_TRIES):
            invoked_at = self._process.world.now
            try:
                answer = call()
            except (ConflictError, DeletedError, UnknownJobError):
                return
            except StorageError:
                self._process.sleep(1)
                continue
            count = answer if isinstance(answer, int) else 0
            self._complete(action, invoked_at, index=index, count=count)
            return

    def _complete(
        self, operation: str, invoked_at: float, *, index: int = -1, count: int = 0
    ) -> None:
        workload = self._workload
        self._history.completions.append(
            Completion(
                invoked_at,
                self._process.world.now,
                operation,
                workload.tenant,
                workload.job,
                index,
                workload.key,
                count,
            )
        )
