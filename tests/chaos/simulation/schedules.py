"""One seed, one schedule: what happened, and which promises it broke."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from chaos.simulation.invariants import broken_promises
from chaos.simulation.service_processes import Service
from chaos.simulation.world import World
from services.storage.s3 import S3Store


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one seed."""

    seed: int
    broken: tuple[str, ...]
    requests: int
    crashes: int
    attempts: int
    items: int
    log: str = ""
    """Everything that happened, if a promise was broken or it was asked for."""


def simulate(
    seed: int,
    *,
    kind: type[S3Store] = S3Store,
    rates: dict[str, float] | None = None,
    faulty: float | None = None,
    variant: AbstractContextManager[object] | None = None,
    log: bool = False,
) -> Outcome:
    """Run a seed's schedule, with a ledger that is changed by `variant`, and check everything.

    `rates` and `faulty` are as in `Service`.
    """
    with World(seed) as world, variant or nullcontext():
        service = Service(world, kind, rates, faulty)
        try:
            service.run()
            broken = broken_promises(service)
        except Exception as error:
            broken = [f"a process failed with {error!r}"]
        return Outcome(
            seed,
            tuple(broken),
            requests=len(service.bucket.positions),
            crashes=sum(not process.alive for process in world.processes),
            attempts=len(service.history.starts),
            items=sum(
                answer.count for answer in service.history.answers if answer.what == "submit"
            ),
            log=world.schedule() if broken or log else "",
        )
