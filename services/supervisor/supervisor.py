"""What the supervisor does again and again."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from services import logs, metrics
from services.contracts.models import ServedModels, generation_pool
from services.errors import ServiceError
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery, RecoveryReport
from services.settings import SupervisorTimeouts
from services.supervisor.autoscaler import StartBackoff, resize, worth
from services.supervisor.fair_share import FairShare, Resources
from services.training.pool import WorkerStatus

log = logs.logger(__name__)

_MOST_BROKEN = 5  # turns in a row, before the process gives up


class WorkerPool(Protocol):
    """Workers of all offers, wherever they run."""

    def members(self) -> Mapping[str, Sequence[WorkerStatus]]:
        """Of each pool, as far as is known."""
        ...

    def nodes(self) -> Sequence[Resources]:
        """What each node has for workers, those that are there included."""
        ...

    def start(self, pool: str) -> str:
        """One more. Returns its name."""
        ...

    def drain(self, name: str) -> None:
        """One less: it gives back what it has."""
        ...


class Supervisor:
    """Turn by turn. What fails in one is tried again in the next."""

    def __init__(
        self,
        ledger: Ledger,
        served_models: ServedModels,
        pool: WorkerPool,
        *,
        deliver: Callable[[], object] = lambda: None,
        timeouts: SupervisorTimeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """deliver: tells tenants what has ended; called once a turn."""
        self._ledger, self._models, self._pool = ledger, served_models, pool
        self._deliver, self._clock = deliver, clock
        self._timeouts = timeouts or SupervisorTimeouts()
        self._sharing = FairShare(
            clock,
            patience=self._timeouts.fair_share_interval_s,
            turn=self._timeouts.scale_down_delay_s,
        )
        self._supervisor = Recovery(ledger)
        self._swept = float("-inf")
        self._not_served: set[str] = set()
        """Pools that jobs wait for, and that nobody works for."""
        self._backoffs = {name: StartBackoff(clock) for name in served_models}
        self.passes = 0
        """That were done without trouble."""

    def run(self, stopped: threading.Event) -> None:
        """Until it is stopped."""
        broken = 0
        while not stopped.is_set():
            try:
                self.turn()
                broken = 0
            except ServiceError as error:
                log.warning("a turn failed", error=str(error)[:300])
            except Exception:
                # Such as of Ray. If it lasts, a new process connects anew.
                log.exception("a turn broke")
                broken += 1
                if broken >= _MOST_BROKEN:
                    raise
            stopped.wait(self._timeouts.reconcile_interval_s)

    def turn(self) -> None:
        """One. Raises: ServiceError if the store did not answer; whatever the pool raises."""
        began = self._clock()
        seen = self._supervisor.recover()
        metrics.current().observe("dti_supervisor_pass_seconds", self._clock() - began)
        for job, reason in seen.damaged.items():
            log.error("a job's record is damaged", job=job, reason=reason)
        self._tell(seen)
        # Before Ray, which may break: those who wait for it have nothing to do with it.
        self._deliver()
        self._resize(seen)
        self.passes += 1
        if self._clock() - self._swept >= self._timeouts.sweep_interval_s:
            # Not first: it looks at all jobs there ever were. If it fails, the next is in time.
            self._swept = self._clock()
            for job, reason in self._supervisor.sweep().items():
                log.error("a job's record is damaged", job=job, reason=reason)

    def _tell(self, seen: RecoveryReport) -> None:
        counted = metrics.current()
        for state, count in seen.counts:
            counted.set("dti_items", count, state=state)
        now = self._ledger.store.now()
        for pool in (*self._models, *map(generation_pool, self._models)):
            oldest = seen.oldest.get(pool)
            age = max((now - oldest).total_seconds(), 0) if oldest else 0
            counted.set("dti_queue_oldest_seconds", age, pool=pool)
        missing = {pool for pool, jobs in seen.open_jobs.items() if jobs} - self._models.keys()
        for pool in sorted(missing - self._not_served):
            log.warning("jobs wait for what is not offered", pool=pool, jobs=seen.open_jobs[pool])
        for pool in (*self._models, *(missing | self._not_served)):
            counted.set("dti_jobs_open", seen.open_jobs.get(pool, 0), pool=pool)
        self._not_served = missing

    def _resize(self, seen: RecoveryReport) -> None:
        everybody = self._pool.members()
        wanted = {
            name: worth(served_model, seen.open_items.get(name, 0))
            for name, served_model in self._models.items()
        }
        verdicts = self._sharing.verdicts(self._models, wanted, everybody, self._pool.nodes())
        for name in self._models:
            members, verdict = everybody.get(name, ()), verdicts[name]
            change = resize(
                wanted[name], members, patience=self._timeouts.idle_timeout_s, verdict=verdict
            )
            backoff = self._backoffs[name]
            backoff.see(members)
            counted = metrics.current()
            counted.set("dti_workers_wanted", change.wanted, pool=name)
            for state in ("running", "pending", "draining"):
                count = sum(member.state == state for member in members)
                counted.set("dti_workers", count, pool=name, state=state)
            for member in change.drain:
                why = "others wait for its place" if verdict.yields else "it is not needed"
                log.info("worker drained", pool=name, worker=member, why=why)
                self._pool.drain(member)
                backoff.left(member)
            if change.start and backoff.allows:
                for _ in range(change.start):
                    backoff.started(self._pool.start(name))
                log.info("workers started", pool=name, count=change.start, wanted=change.wanted)
