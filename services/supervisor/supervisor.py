"""The supervisor's control loop: recover jobs, send webhooks, scale the pools of workers."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from services import logs, metrics
from services.contracts.models import ServedModels, generation_pool
from services.errors import ServiceError
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery, RecoveryReport
from services.process import error_boundary
from services.settings import SupervisorTimeouts
from services.supervisor.autoscaler import StartBackoff, desired_workers, scale
from services.supervisor.fair_share import FairShare
from services.supervisor.retention import RetentionSweep
from services.training.pool import ClusterNode, WorkerStatus

log = logs.logger(__name__)

_MAX_FAILURES = 5
"""Failed passes in a row after which the process ends: a new one connects to Ray anew."""


class WorkerPool(Protocol):
    """Workers of all models, wherever they run."""

    def workers(self) -> Mapping[str, Sequence[WorkerStatus]]:
        """Return the workers of each pool, as far as they are known."""
        ...

    def nodes(self) -> Sequence[ClusterNode]:
        """Return what each node has for workers, including what those that there are have."""
        ...

    def start(self, pool: str) -> str:
        """Start one more worker; return its name."""
        ...

    def drain(self, name: str) -> None:
        """Have a worker give back its attempts and end."""
        ...


class Supervisor:
    """Reconciles the service in passes; what fails in one is tried again in the next."""

    def __init__(
        self,
        ledger: Ledger,
        models: ServedModels,
        pool: WorkerPool,
        *,
        deliver: Callable[[], object] = lambda: None,
        timeouts: SupervisorTimeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without memory.

        Args:
            ledger: The jobs.
            models: The served models.
            pool: The training workers.
            deliver: Sends the webhooks that are due; called once in each pass.
            timeouts: The intervals of passes and sweeps.
            clock: Monotonic seconds.
        """
        self._ledger, self._models, self._pool = ledger, models, pool
        self._deliver, self._clock = deliver, clock
        self._timeouts = timeouts or SupervisorTimeouts()
        self._fair_share = FairShare(
            clock,
            interval_s=self._timeouts.fair_share_interval_s,
            turn_s=self._timeouts.scale_down_delay_s,
        )
        self._recovery = Recovery(ledger)
        self._sweeper = _Sweeper(ledger, self._timeouts, clock)
        self._not_served: set[str] = set()
        """Pools that jobs wait for, and that no model serves."""
        self._backoffs = {name: StartBackoff(clock) for name in models}
        self.passes = 0
        """Passes without an error."""

    def run(
        self, stopped: threading.Event, after_turn: Callable[[], object] = lambda: None
    ) -> None:
        """Reconcile until stopped.

        after_turn: called after each pass, whether it has succeeded or failed.

        Raises: the last error if too many passes fail in a row.
        """
        failures = 0
        while not stopped.is_set():
            try:
                self.reconcile()
                failures = 0
            except ServiceError as error:
                log.warning("pass failed: store unavailable", error=str(error)[:300])
            except Exception:
                # An error of Ray, for example. If it lasts, a new process connects anew.
                log.exception("pass failed")
                failures += 1
                if failures >= _MAX_FAILURES:
                    raise
            after_turn()
            stopped.wait(self._timeouts.reconcile_interval_s)

    def wait_for_sweep(self, timeout_s: float | None = None) -> None:
        """Wait until no sweep is running."""
        self._sweeper.wait(timeout_s)

    def reconcile(self) -> None:
        """Do one pass. Raises: ServiceError if the store did not answer; any error of the pool."""
        began = self._clock()
        report = self._recovery.recover()
        metrics.current().observe("dti_supervisor_pass_seconds", self._clock() - began)
        _log_damaged(report.damaged)
        self._export(report)
        # Before Ray, which may fail: webhooks do not depend on it.
        self._deliver()
        self._scale(report)
        self.passes += 1
        self._sweeper.begin_if_due()

    def _export(self, report: RecoveryReport) -> None:
        """Set the gauges of jobs, and warn of those that no model serves."""
        recorder = metrics.current()
        for state, count in report.counts:
            recorder.set("dti_items", count, state=state)
        now = self._ledger.store.now()
        for pool in (*self._models, *map(generation_pool, self._models)):
            oldest = report.oldest.get(pool)
            age_s = max((now - oldest).total_seconds(), 0) if oldest else 0
            recorder.set("dti_queue_oldest_seconds", age_s, pool=pool)
        not_served = {pool for pool, jobs in report.open_jobs.items() if jobs} - self._models.keys()
        for pool in sorted(not_served - self._not_served):
            jobs = report.open_jobs[pool]
            log.warning("jobs wait for a model that is not served", pool=pool, jobs=jobs)
        # Also pools that were not served in the pass before, so that their gauges go back to 0.
        for pool in (*self._models, *(not_served | self._not_served)):
            recorder.set("dti_jobs_open", report.open_jobs.get(pool, 0), pool=pool)
        self._not_served = not_served

    def _scale(self, report: RecoveryReport) -> None:
        """Start and drain workers, so that each pool has what it may have."""
        all_workers = self._pool.workers()
        desired = {
            name: desired_workers(model, report.open_items.get(name, 0))
            for name, model in self._models.items()
        }
        decisions = self._fair_share.decide(self._models, desired, all_workers, self._pool.nodes())
        for name in self._models:
            workers, share = all_workers.get(name, ()), decisions[name]
            change = scale(
                desired[name],
                workers,
                idle_timeout_s=self._timeouts.idle_timeout_s,
                share=share,
            )
            backoff = self._backoffs[name]
            recorder = metrics.current()
            if failed := backoff.update(workers):
                recorder.count("dti_worker_start_failures_total", failed, pool=name)
            recorder.set("dti_workers_desired", change.desired, pool=name)
            for state in ("running", "pending", "draining"):
                count = sum(worker.state == state for worker in workers)
                recorder.set("dti_workers", count, pool=name, state=state)
            reason = "another model waits for its share" if share.must_release else "not needed"
            for worker in change.drain:
                log.info("worker drained", pool=name, worker=worker, reason=reason)
                self._pool.drain(worker)
                backoff.drained(worker)
            if change.start and backoff.may_start:
                for _ in range(change.start):
                    backoff.started(self._pool.start(name))
                log.info("workers started", pool=name, count=change.start, desired=change.desired)


class _Sweeper:
    """Sweeps at intervals on a thread of its own, because a sweep of many jobs takes minutes."""

    def __init__(
        self, ledger: Ledger, timeouts: SupervisorTimeouts, clock: Callable[[], float]
    ) -> None:
        """Prepare the first sweep.

        Args:
            ledger: The jobs.
            timeouts: The time from the start of a sweep to the start of the next one, and how long
                uploads and images are kept.
            clock: Monotonic seconds.
        """
        # Not the recovery of the passes, which keeps what it knows of workers from pass to pass.
        self._recovery = Recovery(ledger)
        self._retention = RetentionSweep(ledger, timeouts)
        self._interval_s, self._clock = timeouts.sweep_interval_s, clock
        self._began = float("-inf")
        self._thread: threading.Thread | None = None

    def begin_if_due(self) -> None:
        """Begin a sweep if the interval has passed and no sweep is running."""
        is_running = self._thread is not None and self._thread.is_alive()
        if is_running or self._clock() - self._began < self._interval_s:
            return
        self._began = self._clock()
        # A sweep that ends with its process has done no harm, and the next one does the rest.
        self._thread = threading.Thread(target=self._sweep, name="sweep", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until no sweep is running."""
        if self._thread:
            self._thread.join(timeout_s)

    def _sweep(self) -> None:
        # If it fails, the next sweep is soon enough: it only finds what is damaged or left behind.
        with error_boundary("sweep failed"):
            try:
                _log_damaged(self._recovery.sweep())
                self._retention.sweep()
            except ServiceError as error:
                log.warning("sweep failed: store unavailable", error=str(error)[:300])


def _log_damaged(damaged: Mapping[str, str]) -> None:
    """Log jobs whose records are damaged, given with the reason."""
    for job, reason in damaged.items():
        log.error("job record is damaged", job=job, reason=reason)
