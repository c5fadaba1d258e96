"""One round: processes and faults, then calm until all has ended, then the checks."""

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.processes.checker import violations
from chaos.processes.checker.rebuilding import rebuilt
from chaos.processes.client import CALM
from chaos.processes.generator import Plan
from chaos.processes.history import Evidence
from chaos.processes.lines import Log, read_logs
from chaos.processes.nemesis import Killer, Outage
from chaos.processes.process_manager import Crew
from chaos.processes.summary import Figures, figures_of
from services.errors import DeletedError
from services.ledger import queries as reading
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.storage.settings import DirectorySettings, store_settings

_TURN = 0.02
"""Seconds between two looks at the crew."""


@dataclass(frozen=True, slots=True)
class Crash:
    """How the store is killed and started again."""

    crash: str
    up: str


@dataclass(frozen=True)
class Verdict:
    """How a round went."""

    figures: Figures
    violations: list[str]


def run_round(plan: Plan, folder: Path, crash: Crash | None = None) -> Verdict:
    """All of one round. Its logs are in `folder`, and its store is left as it is."""
    folder.mkdir(parents=True)
    plan.save(folder)
    begun = time.monotonic()
    ledger, log = plan.open(), Log(folder, "round")
    chance = random.Random(plan.seed)
    crew = Crew(plan, folder, log, chance)
    try:
        crew.begin()
        _trouble(plan, crew, log, chance, crash)
        _calm(plan, folder, crew, ledger, log)
    finally:
        crew.end()
    supervisor = Recovery(ledger)
    supervisor.sweep()
    supervisor.recover()
    evidence = Evidence.gather(plan, folder, ledger)
    found = violations(evidence) + [f"rebuilt: {one}" for one in rebuilt(evidence)]
    (folder / "violations.txt").write_text("".join(f"{one}\n" for one in found))
    return Verdict(figures_of(evidence, time.monotonic() - begun), found)


def remove_store(url: str) -> None:
    """All that a round has left in its store."""
    settings = store_settings(url)
    if isinstance(settings, DirectorySettings):
        shutil.rmtree(settings.root)
        return
    ledger = Plan(url, "").open()
    for page in list(ledger.pages("")):
        ledger.gather(ledger.store.delete, [head.key for head in page.objects])


def _trouble(plan: Plan, crew: Crew, log: Log, chance: random.Random, crash: Crash | None) -> None:
    """Faults, until their time is over and the store is back."""
    killer = Killer(plan, crew, chance)
    outage = None
    if crash:
        after = plan.seconds * chance.uniform(0.2, 0.6)
        outage = Outage(crash.crash, crash.up, after, plan.lease * chance.uniform(0, 2), log)
        outage.start()
    end = time.monotonic() + plan.seconds
    while time.monotonic() < end or (outage and outage.is_alive()):
        crew.tend()
        killer.turn()
        time.sleep(_TURN)
    if outage and outage.trouble:
        raise RuntimeError(outage.trouble)


def _calm(plan: Plan, folder: Path, crew: Crew, ledger: Ledger, log: Log) -> None:
    """No more faults, but that sleepers wake up in their time: clients hear their last answers,
    and all their jobs end.
    """
    log.say("calm")
    (folder / CALM).touch()
    crew.calm = True
    end = time.monotonic() + plan.limit
    left: set[str] | None = None
    while left is None or left:
        if time.monotonic() > end:
            names = [one.name for one in crew.members if one.role == "client" and not one.ended]
            log.say("overdue", jobs=sorted(left or names))
            return
        crew.tend()
        time.sleep(_TURN)
        if all(member.ended for member in crew.members if member.role == "client"):
            left = _made(folder) if left is None else left
            left = {job for job in left if not _has_ended(ledger, plan.tenant, job)}
            time.sleep(plan.look)
    log.say("all-ended")


def _made(folder: Path) -> set[str]:
    answers = (line for line in read_logs(folder) if line.what == "answered")
    return {line["job"] for line in answers if "job" in line.told}


def _has_ended(ledger: Ledger, tenant: str, job: str) -> bool:
    try:
        return reading.view_job(ledger, tenant, job).state.ended
    except DeletedError:
        return True
