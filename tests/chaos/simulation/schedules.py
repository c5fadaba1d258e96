"""One schedule by its seed: what happened, and which invariants were violated."""

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

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

    The result is a function of the arguments and of the code alone. `rates` and `fault_duration_s`
    are as in `SimulatedService`.
    """
    with _no_settings_of_the_environment(), World(seed) as world, mutant or nullcontext():
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


@contextmanager
def _no_settings_of_the_environment() -> Generator[None]:
    """Hide the variables `DTI_...`.

    Settings of the store and of the ledger read them, so a variable of the shell or of another test
    would change timeouts, and with them the schedules of all seeds.
    """
    others = {name: value for name, value in os.environ.items() if not name.startswith("DTI_")}
    with patch.dict(os.environ, others, clear=True):
        yield
