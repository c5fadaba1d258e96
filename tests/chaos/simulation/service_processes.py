"""A whole service in one world: workers, supervisors and customers over one faulty S3 server.

faults      crashes, pauses, lost and late answers, 500, 503, 409, slow requests
quiet       no more faults; what was under way arrives; then one busy worker is killed
end         all that was accepted has ended, or it never will
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from chaos.simulation.bucket import Bucket
from chaos.simulation.generator import Customer, Plan, draw_plan
from chaos.simulation.history import History, claimed
from chaos.simulation.nemesis import Faults
from chaos.simulation.network import Wire
from chaos.simulation.process import Process
from chaos.simulation.recorder import Witness
from chaos.simulation.store_client import simulated_store
from chaos.simulation.worker_process import POOL, Habits, Labour
from chaos.simulation.world import World
from services.contracts.jobs import Item, JobRequest
from services.errors import StorageError
from services.ledger.ids import Ids
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.settings import LedgerSettings
from services.storage.s3 import S3Store

LOOK = 3.0
PASS = 5.0
"""Seconds between two passes of a supervisor."""

_SWEEP = 40.0
_BUSY = 600.0
"""Virtual seconds after the faults in which some worker gets to work."""

_LONGEST = 6000.0
"""Virtual seconds after the faults in which everything must have ended."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much goes on in a world."""

    workers: int
    supervisors: int
    customers: int
    faulty: float
    """Seconds until the faults stop."""
    lease: float
    look: float
    habits: Habits


def draw_scale(chance: random.Random) -> Scale:
    return Scale(
        workers=chance.choice((1, 2, 2, 3)),
        supervisors=chance.choice((1, 1, 1, 2)),
        customers=chance.choice((1, 2, 2, 3)),
        faulty=chance.choice((10.0, 25.0, 60.0)),
        lease=chance.choice((8.0, 15.0, 30.0)),
        look=chance.choice((0.05, LOOK, LOOK, LOOK)),
        habits=Habits(
            slots=chance.randint(1, 3),
            step=chance.uniform(0.3, 6.0),
            drains=chance.choice((0.0, 0.0, 0.01)),
        ),
    )


class Service:
    """All processes of one world. Each that crashes is started again."""

    def __init__(
        self,
        world: World,
        kind: type[S3Store] = S3Store,
        rates: dict[str, float] | None = None,
        faulty: float | None = None,
    ) -> None:
        """`rates` are those of faults, and `faulty` how long there are any, where that is not to be
        drawn.
        """
        chance = world.random
        self.world = world
        self.scale = draw_scale(chance)
        if faulty is not None:
            self.scale = replace(self.scale, faulty=faulty)
        self.faults = Faults.drawn(chance, until=self.scale.faulty)
        if rates is not None:
            self.faults = Faults(**rates, until=self.scale.faulty)
        self.bucket = Bucket(world, offset=chance.uniform(-5, 5))
        self.history = History()
        self.witnesses: list[Witness] = []
        self.plans: list[Plan] = []
        self.labour: list[Labour] = []
        self._kind = kind
        self._wire = Wire(self.bucket, self.faults)
        self._settings = LedgerSettings(lease_s=self.scale.lease, poll_interval_s=self.scale.look)

    @property
    def quiet(self) -> float:
        """When the effects of the faults so far are over."""
        paused = (process.paused_until for process in self.world.processes)
        return max(self.scale.faulty, self._wire.settled, *paused)

    def run(self) -> None:
        """Until all has ended, or `_LONGEST` is over."""
        for number in range(self.scale.supervisors):
            self._keep(f"supervisor {number}", self._supervise)
        for number in range(self.scale.workers):
            self._keep(f"worker {number}", self._labour)
        for number in range(self.scale.customers):
            plan = draw_plan(self.world.random, number)
            self.plans.append(plan)
            self._keep(f"customer {number}", lambda process, plan=plan: self._serve(process, plan))
        self.world.run(until=self.scale.faulty)
        self.world.run(until=self.quiet)
        quiet = self.world.now
        self._submit_late()
        self.world.run(until=quiet + _BUSY, done=self._kill_a_busy_one)
        self.world.run(until=quiet + _LONGEST, done=self._every(5.0, self._all_ended))

    def open_ledger(self, process: Process) -> Ledger:
        """The ledger as a process has it open."""
        witness = Witness(simulated_store(process, self._wire, self._kind), process)
        self.witnesses.append(witness)
        return Ledger(
            store=witness,
            lease_store=witness.for_leases(),
            settings=self._settings,
            ids=Ids(lambda: process.wall().timestamp(), self.world.random.getrandbits),
            gather=lambda function, over: [function(one) for one in over],
            clock=process.clock,
        )

    def _keep(self, name: str, run: Callable[[Process], None]) -> None:
        """Start a process, and one in its place when it crashes."""
        process = self.world.process(name)

        def again() -> None:
            self.world.after(self.world.random.uniform(1, 20), self._keep, name, run)

        process.on_crash.append(again)
        process.spawn(lambda: run(process), "main")

    def _labour(self, process: Process) -> None:
        labour = Labour(process, self.open_ledger, self.history, self.scale.habits)
        self.labour.append(labour)
        labour.run()

    def _serve(self, process: Process, plan: Plan) -> None:
        Customer(process, self.open_ledger, self.history, plan).run()

    def _supervise(self, process: Process) -> None:
        supervisor = Recovery(self.open_ledger(process))
        swept = float("-inf")
        while True:
            try:
                if process.clock() - swept > _SWEEP:
                    supervisor.sweep()
                    swept = process.clock()
                damaged = supervisor.recover().damaged
                self.history.wrong += [f"damaged: {why}" for why in damaged.values()]
            except StorageError:
                pass
            process.sleep(PASS)

    def _submit_late(self) -> None:
        """A job that nothing goes wrong with, but that its worker is killed."""
        count = self.scale.workers * self.scale.habits.slots
        items = tuple(
            Item(name=str(i), work={"steps": 8, "every": 2, "fate": "ok"}) for i in range(count)
        )
        plan = Plan("late", "late", JobRequest(pool=POOL, items=items), [])
        self.plans.append(plan)
        self._keep("late customer", lambda process: self._serve(process, plan))

    def _kill_a_busy_one(self) -> bool:
        """Whether a worker was killed that had something in hand for some steps, while a supervisor
        was there to see it.
        """
        awake = [
            process.name
            for process in self.world.processes
            if process.alive and process.paused_until <= self.world.now
        ]
        if not any(name.startswith("supervisor") for name in awake):
            return False
        for labour in self.labour:
            if labour.process.alive and any(step >= 3 for step in labour.running.values()):
                running = [attempt for attempt in labour.running if not attempt.stop_reason]
                in_hand = [claimed(attempt) for attempt in running]
                if any(tenant == "late" for tenant, _, _, _ in in_hand):
                    worker = running[0].lease.worker
                    self.history.last_kill = self.world.now, worker, in_hand
                    self.world.crash(labour.process)
                    return True
        return False

    def _all_ended(self) -> bool:
        from chaos.simulation.invariants import unended

        return not any(plan.acts or not plan.job for plan in self.plans) and not unended(self)

    def _every(self, seconds: float, done: Callable[[], bool]) -> Callable[[], bool]:
        """`done`, asked no more often than that."""
        due = self.world.now

        def ask() -> bool:
            nonlocal due
            if self.world.now < due:
                return False
            due = self.world.now + seconds
            return done()

        return ask
