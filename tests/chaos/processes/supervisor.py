"""A supervisor process: recovery passes through the queue, and a sweep now and then."""

import time

from chaos.config import RoundConfig
from chaos.history import HistoryLog
from services.errors import UnavailableError
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery

RECOVERY_INTERVAL_S = 0.4
_PASSES_PER_SWEEP = 10


def main(ledger: Ledger, _: RoundConfig, log: HistoryLog) -> None:
    """Recover until the process is killed."""
    recovery, passes = Recovery(ledger), 0
    while True:
        started_at = time.monotonic()
        try:
            if passes % _PASSES_PER_SWEEP == 0:
                recovery.sweep()
                log.append("sweep", duration_s=time.monotonic() - started_at)
            report = recovery.recover()
        except UnavailableError as error:
            log.append("unavailable", error=str(error))
        else:
            log.append(
                "recovery_pass",
                jobs=report.jobs,
                finished=report.finished,
                damaged=report.damaged,
                duration_s=time.monotonic() - started_at,
            )
            passes += 1
        time.sleep(RECOVERY_INTERVAL_S)
