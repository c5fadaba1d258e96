"""One schedule by its seed: what happened, and which invariants were violated."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from chaos.simulation.invariants import find_violations
from chaos.simulation.simulated_service import SimulatedService
from chaos.simulation.world import World
from services.storage.s3 import S3Store


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The figures of one seed, and its violations."""

    seed: int
    violations: tuple[str, ...]
    requests: int
    crashes: int
    attempts: int
    items: int
    log: str = ""
    """Everything that happened, if there was a violation or it was requested."""


def simulate(
    seed: int,
    *,
    kind: type[S3Store] = S3Store,
    rates: dict[str, float] | None = None,
    fault_duration_s: float | None = None,
    mutant: AbstractContextManager[object] | None = None,
    log: bool = False,
) -> SimulationResult:
    """Run the schedule of a seed, with a ledger changed by `mutant`, and check everything.

    `rates` and `fault_duration_s` are as in `SimulatedService`.
    """
    with World(seed) as world, mutant or nullcontext():
        service = SimulatedService(world, kind, rates, fault_duration_s)
        try:
            service.run()
            violations = find_violations(service)
        except Exception as error:
            violations = [f"a process failed with {error!r}"]
        return SimulationResult(
            seed,
            tuple(violations),
            requests=len(service.bucket.positions),
            crashes=sum(not process.alive for process in world.processes),
            attempts=len(service.history.starts),
            items=sum(
                answer.count
                for answer in service.history.completions
                if answer.operation == "submit"
            ),
            log=world.schedule() if violations or log else "",
        )
