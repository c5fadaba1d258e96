"""A supervisor's process: it goes through the queue again and again, and sweeps now and then."""

import time

from chaos.processes.generator import Plan
from chaos.processes.lines import Log
from services.errors import UnavailableError
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery

PAUSE = 0.4
"""Seconds between two passes through the queue."""
_SWEEP = 10
"""Passes to a sweep."""


def main(ledger: Ledger, _: Plan, log: Log) -> None:
    supervisor, passes = Recovery(ledger), 0
    while True:
        begun = time.monotonic()
        try:
            if passes % _SWEEP == 0:
                supervisor.sweep()
                log.say("swept", took=time.monotonic() - begun)
            seen = supervisor.recover()
        except UnavailableError as error:
            log.say("unavailable", error=str(error))
        else:
            log.say(
                "passed",
                jobs=seen.jobs,
                finished=seen.finished,
                damaged=seen.damaged,
                took=time.monotonic() - begun,
            )
            passes += 1
        time.sleep(PAUSE)
