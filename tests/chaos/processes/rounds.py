"""One round: processes and faults, then time without faults until all jobs end, then the checks."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.checker import violations
from chaos.checker.states import rebuild_differs
from chaos.config import RoundConfig
from chaos.history import History, HistoryLog, read_logs
from chaos.processes.client import FAULTS_STOPPED
from chaos.processes.nemesis import ProcessNemesis, StoreOutage
from chaos.processes.process_manager import ProcessManager
from chaos.processes.report import RoundStatistics, round_statistics
from services.errors import DeletedError
from services.ledger import queries
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery

_POLL_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class StoreCommands:
    """The shell commands that kill the store and start it again."""

    crash: str
    restart: str


@dataclass(frozen=True)
class RoundResult:
    """The figures of a round, and the violations that the checks found."""

    statistics: RoundStatistics
    violations: list[str]


def run_round(
    config: RoundConfig, folder: Path, commands: StoreCommands | None = None
) -> RoundResult:
    """Run one round. Its logs are in `folder`, and its store is left as it is."""
    folder.mkdir(parents=True)
    config.save(folder)
    started_at = time.monotonic()
    ledger, log = config.open(), HistoryLog(folder, "round")
    rng = random.Random(config.seed)
    manager = ProcessManager(config, folder, log, rng)
    try:
        manager.start()
        _inject_faults(config, manager, log, rng, commands)
        _await_completion(config, folder, manager, ledger, log)
    finally:
        manager.stop()
    recovery = Recovery(ledger)
    recovery.sweep()
    recovery.recover()
    history = History.collect(config, folder, ledger)
    found = violations(history) + violations(history, [rebuild_differs])
    (folder / "violations.txt").write_text("".join(f"{violation}\n" for violation in found))
    statistics = round_statistics(history, time.monotonic() - started_at)
    return RoundResult(statistics, found)


def _inject_faults(
    config: RoundConfig,
    manager: ProcessManager,
    log: HistoryLog,
    rng: random.Random,
    commands: StoreCommands | None,
) -> None:
    """Inject faults until their time is over and the store is back."""
    nemesis = ProcessNemesis(config, manager, rng)
    outage = None
    if commands:
        delay_s = config.fault_duration_s * rng.uniform(0.2, 0.6)
        duration_s = config.lease_s * rng.uniform(0, 2)
        outage = StoreOutage(commands.crash, commands.restart, delay_s, duration_s, log)
        outage.start()
    deadline = time.monotonic() + config.fault_duration_s
    while time.monotonic() < deadline or (outage and outage.is_alive()):
        manager.tend()
        nemesis.tend()
        time.sleep(_POLL_INTERVAL_S)
    if outage and outage.error:
        raise RuntimeError(outage.error)


def _await_completion(
    config: RoundConfig, folder: Path, manager: ProcessManager, ledger: Ledger, log: HistoryLog
) -> None:
    """Wait until the clients have their last completions and all their jobs have ended.

    Paused processes continue at their times: what they do then is part of the round.
    """
    log.append("faults_stopped")
    (folder / FAULTS_STOPPED).touch()
    manager.faults_stopped = True
    deadline = time.monotonic() + config.completion_timeout_s
    open_jobs: set[str] | None = None
    while open_jobs is None or open_jobs:
        active = [p.name for p in manager.processes if p.role == "client" and not p.ended]
        if time.monotonic() > deadline:
            log.append("overdue", jobs=sorted(open_jobs or active))
            return
        manager.tend()
        time.sleep(_POLL_INTERVAL_S)
        if not active:
            open_jobs = _submitted_jobs(folder) if open_jobs is None else open_jobs
            open_jobs = {job for job in open_jobs if not _has_ended(ledger, config.tenant, job)}
            time.sleep(config.poll_interval_s)
    log.append("all_ended")


def _submitted_jobs(folder: Path) -> set[str]:
    completions = (event for event in read_logs(folder) if event.type == "completed")
    return {event["job"] for event in completions if "job" in event.fields}


def _has_ended(ledger: Ledger, tenant: str, job: str) -> bool:
    try:
        return queries.view_job(ledger, tenant, job).state.ended
    except DeletedError:
        return True
