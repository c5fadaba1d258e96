"""A worker's process: it lives again and again until it is killed, or told to end by SIGTERM."""

import signal
import time
from collections.abc import Callable

from chaos.processes.generator import Plan
from chaos.processes.lines import Log
from chaos.processes.workload import Bench
from services.errors import LedgerError, UnavailableError
from services.ledger.ledger import Ledger
from services.ledger.worker import Heartbeat, WorkerSession


def live(ledger: Ledger, plan: Plan, log: Log, told_to_end: Callable[[], bool]) -> None:
    """One life, until the lease is lost or it is told to end."""
    worker = WorkerSession(ledger, plan.pool)
    try:
        worker.begin()
    except UnavailableError:
        time.sleep(plan.look)
        return
    log.say("began", worker=worker.lease.worker)
    bench = Bench(worker, ledger, plan, log)
    with Heartbeat(worker):
        while not worker.lease.lost and not told_to_end():
            bench.turn()
    if worker.lease.lost:
        log.say("lost", worker=worker.lease.worker)
        return
    try:
        bench.give_back()
        worker.end()
    except (UnavailableError, LedgerError):
        return  # Nobody waits for it longer than for one that was killed.
    log.say("ended-life", worker=worker.lease.worker)


def main(ledger: Ledger, plan: Plan, log: Log) -> None:
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    while not ends:
        live(ledger, plan, log, lambda: bool(ends))
