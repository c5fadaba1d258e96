"""A whole service in one world: workers, supervisors and clients over one faulty S3 server.

faults      crashes, pauses, lost and late answers, 500, 503, 409, slow requests
jumps       the time of day jumps forward or back, in half of the schedules
quiet       no more faults; requests under way arrive; then one busy worker is killed
end         everything accepted has ended, or never will
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from chaos.simulation.bucket import Bucket
from chaos.simulation.generator import SimulatedClient, Workload, draw_workload
from chaos.simulation.ground_truth import GroundTruth, accepted_jobs
from chaos.simulation.history import History, attempt_key
from chaos.simulation.nemesis import Faults
from chaos.simulation.network import Network
from chaos.simulation.process import Process
from chaos.simulation.recorder import StoreRecorder
from chaos.simulation.store_client import simulated_store
from chaos.simulation.worker_process import POOL, WorkerConfig, WorkerProcess
from chaos.simulation.world import World
from services.contracts.jobs import JobItem, JobRequest
from services.errors import StorageError
from services.ledger.ids import Ids
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.settings import LedgerSettings
from services.storage.s3 import S3Store

POLL_INTERVAL_S = 3.0
RECOVERY_INTERVAL_S = 5.0

JUMPS_S = (-3600, -90, 90, 3600)
_JUMPED_S = 200.0
"""Virtual time in which the time of day jumps, faults or not."""

_SWEEP_INTERVAL_S = 40.0
_KILL_TIMEOUT_S = 600.0
"""Virtual time after the faults in which some worker must become busy."""

_COMPLETION_TIMEOUT_S = 6000.0
"""Virtual time after the faults in which everything must end."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The size of a service, and the duration of its faults."""

    workers: int
    supervisors: int
    clients: int
    fault_duration_s: float
    lease_s: float
    poll_interval_s: float
    worker: WorkerConfig


def draw_config(rng: random.Random) -> ServiceConfig:
    """Draw the size of a service."""
    return ServiceConfig(
        workers=rng.choice((1, 2, 2, 3)),
        supervisors=rng.choice((1, 1, 1, 2)),
        clients=rng.choice((1, 2, 2, 3)),
        fault_duration_s=rng.choice((10.0, 25.0, 60.0)),
        lease_s=rng.choice((8.0, 15.0, 30.0)),
        poll_interval_s=rng.choice((0.05, POLL_INTERVAL_S, POLL_INTERVAL_S, POLL_INTERVAL_S)),
        worker=WorkerConfig(
            slots=rng.randint(1, 3),
            step_s=rng.uniform(0.3, 6.0),
            drain_probability=rng.choice((0.0, 0.0, 0.01)),
        ),
    )


class SimulatedService:
    """All processes of one world. Each that crashes is started again."""

    def __init__(
        self,
        world: World,
        kind: type[S3Store] = S3Store,
        rates: dict[str, float] | None = None,
        fault_duration_s: float | None = None,
    ) -> None:
        """Prepare a service.

        kind: the class of its stores. rates, fault_duration_s: those of the faults; drawn if None.
        """
        rng = world.random
        self.world = world
        self.config = draw_config(rng)
        if fault_duration_s is not None:
            self.config = replace(self.config, fault_duration_s=fault_duration_s)
        self.faults = Faults.drawn(rng, until=self.config.fault_duration_s)
        if rates is not None:
            self.faults = Faults(**rates, until=self.config.fault_duration_s)
        self.bucket = Bucket(world, offset=rng.uniform(-5, 5))
        self.history = History()
        self.recorders: list[StoreRecorder] = []
        self.workloads: list[Workload] = []
        self.worker_processes: list[WorkerProcess] = []
        self._kind = kind
        self._network = Network(self.bucket, self.faults)
        self._settings = LedgerSettings(
            lease_s=self.config.lease_s, poll_interval_s=self.config.poll_interval_s
        )

    @property
    def quiet(self) -> float:
        """Virtual time at which the effects of the faults so far are over."""
        paused = (process.paused_until for process in self.world.processes)
        return max(self.config.fault_duration_s, self._network.settled, *paused)

    def run(self) -> None:
        """Run until everything has ended, or its time is over."""
        for number in range(self.config.supervisors):
            self._start(f"supervisor {number}", self._run_supervisor)
        for number in range(self.config.workers):
            self._start(f"worker {number}", self._run_worker)
        for number in range(self.config.clients):
            workload = draw_workload(self.world.random, number)
            self.workloads.append(workload)
            self._start(
                f"client {number}",
                lambda process, workload=workload: self._run_client(process, workload),
            )
        self._schedule_jumps()
        self.world.run(until=self.config.fault_duration_s)
        self.world.run(until=self.quiet)
        quiet = self.world.now
        self._submit_late()
        self.world.run(until=quiet + _KILL_TIMEOUT_S, done=self._kill_a_busy_worker)
        self.world.run(until=quiet + _COMPLETION_TIMEOUT_S, done=self._every(5.0, self._all_ended))

    def accepted_jobs(self) -> list[GroundTruth]:
        """Return the acknowledged jobs, without those of deleted tenants."""
        return accepted_jobs(self.bucket, self.history)

    def open_items(self) -> list[str]:
        """Return the accepted items that have not ended."""
        return [
            f"item {index} of {truth.tenant}'s job {truth.job}"
            for truth in self.accepted_jobs()
            for index in range(0 if truth.deleted else truth.count)
            if truth.state(index) is None
        ]

    def open_ledger(self, process: Process) -> Ledger:
        """Open the ledger for a process."""
        recorder = StoreRecorder(simulated_store(process, self._network, self._kind), process)
        self.recorders.append(recorder)
        return Ledger(
            store=recorder,
            lease_store=recorder.for_leases(),
            settings=self._settings,
            ids=Ids(lambda: process.wall().timestamp(), self.world.random.getrandbits),
            gather=lambda function, arguments: [function(argument) for argument in arguments],
            clock=process.clock,
        )

    def _start(self, name: str, run: Callable[[Process], None]) -> None:
        """Start a process, and a replacement when it crashes."""
        process = self.world.process(name)

        def again() -> None:
            self.world.after(self.world.random.uniform(1, 20), self._start, name, run)

        process.on_crash.append(again)
        process.spawn(lambda: run(process), "main")

    def _schedule_jumps(self) -> None:
        rng = random.Random(self.world.seed)
        for _ in range(rng.choice((0, 0, 1, 4))):
            self.world.after(rng.uniform(0, _JUMPED_S), self.world.jump, rng.choice(JUMPS_S))

    def _run_worker(self, process: Process) -> None:
        worker = WorkerProcess(process, self.open_ledger, self.history, self.config.worker)
        self.worker_processes.append(worker)
        worker.run()

    def _run_client(self, process: Process, workload: Workload) -> None:
        SimulatedClient(process, self.open_ledger, self.history, workload).run()

    def _run_supervisor(self, process: Process) -> None:
        supervisor = Recovery(self.open_ledger(process))
        swept = float("-inf")
        while True:
            try:
                if process.clock() - swept > _SWEEP_INTERVAL_S:
                    supervisor.sweep()
                    swept = process.clock()
                damaged = supervisor.recover().damaged
                self.history.anomalies += [f"damaged: {why}" for why in damaged.values()]
            except StorageError:
                pass
            process.sleep(RECOVERY_INTERVAL_S)

    def _submit_late(self) -> None:
        """Submit a job to which nothing happens, except that its worker is killed."""
        count = self.config.workers * self.config.worker.slots
        items = tuple(
            JobItem(name=str(i), work={"steps": 8, "every": 2, "script": "ok"})
            for i in range(count)
        )
        workload = Workload("late", "late", JobRequest(pool=POOL, items=items), [])
        self.workloads.append(workload)
        self._start("late client", lambda process: self._run_client(process, workload))

    def _kill_a_busy_worker(self) -> bool:
        """Kill a worker that has run a late item for some steps; return whether there was one.

        A supervisor must be there to notice.
        """
        awake = [
            process.name
            for process in self.world.processes
            if process.alive and process.paused_until <= self.world.now
        ]
        if not any(name.startswith("supervisor") for name in awake):
            return False
        for process in self.worker_processes:
            if process.process.alive and any(step >= 3 for step in process.running.values()):
                running = [attempt for attempt in process.running if not attempt.stop_reason]
                keys = [attempt_key(attempt) for attempt in running]
                if any(tenant == "late" for tenant, _, _, _ in keys):
                    worker = running[0].lease.worker
                    self.history.last_kill = self.world.now, worker, keys
                    self.world.crash(process.process)
                    return True
        return False

    def _all_ended(self) -> bool:
        return (
            not any(workload.actions or not workload.job for workload in self.workloads)
            and not self.open_items()
        )

    def _every(self, seconds: float, done: Callable[[], bool]) -> Callable[[], bool]:
        """Return `done`, evaluated at most once in so many seconds."""
        due = self.world.now

        def ask() -> bool:
            nonlocal due
            if self.world.now < due:
                return False
            due = self.world.now + seconds
            return done()

        return ask
