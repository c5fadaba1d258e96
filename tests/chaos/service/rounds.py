"""One round: a job, a hit while it runs, calm until all is as before, then the checks."""

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from chaos.processes.checker.results import results_changed
from chaos.processes.history import Evidence
from chaos.processes.lines import Log
from chaos.service.checker import violations
from chaos.service.client import Customer, progress
from chaos.service.environment import SEED, OverdueError, Stage
from chaos.service.history import Journal
from chaos.service.nemesis import Hits, Kind
from chaos.service.recovery import Recovery, recovery_of
from chaos.service.tokens import Undisturbed
from dti_engine.artifacts.artifact import Artifact
from dti_engine.errors import ArtifactError
from services.ledger.keys import JobKeys
from services.ledger.recovery import Recovery as LedgerRecovery

_EARLIEST, _LATEST = 0.05, 0.7
"""Share of the work that is done when the hit comes."""
_TELLINGS = 4
"""Of progress, a lease: hits are not to come all right after one."""


@dataclass(frozen=True)
class Verdict:
    """How a round went."""

    name: str
    kinds: tuple[Kind, ...]
    violations: list[str]
    seconds: float = 0.0
    """From the submission until all was as before."""
    progress: float = 0.0
    """Of the job, when the hit came."""
    recovery: Recovery | None = None
    attempts: int = 0
    lost: int = 0
    """Of them, ended as lost."""
    resumed: int = 0
    """Tokens that were learned from a checkpoint on."""
    tokens: int = 0
    exact: int = 0
    """Of them, those that are the undisturbed ones, bit for bit."""
    angle: float = 0.0
    """The largest to an undisturbed token, in degrees."""
    share: float = 0.0
    """The largest, of the angle between two seeds."""
    is_overdue: bool = field(default=False, compare=False)


class Round:
    """`run`, then at the end of all rounds `look_again`."""

    def __init__(self, stage: Stage, undisturbed: Undisturbed, name: str) -> None:
        self._stage, self._undisturbed, self._name = stage, undisturbed, name
        self._plan = stage.course.round(name)
        self._folder = stage.folder / name
        self._folder.mkdir()
        self._log = Log(self._folder, "round")
        self._journal = Journal(stage.ledger, self._plan.tenant, Log(self._folder, "journal"))
        self._chance = random.Random(f"{stage.course.seed}/{name}")
        self._progress = 0.0

    def run(self, kinds: tuple[Kind, ...]) -> Verdict:
        course, begun = self._stage.course, time.monotonic()
        self._log.say("begun", kinds=kinds, steps=course.steps, margin=course.margin)
        is_overdue = False
        with ExitStack() as stack:
            stack.enter_context(self._journal)
            customer = Customer(
                self._stage.service, self._plan.tenant, Log(self._folder, "client-0")
            )
            stack.callback(customer.close)
            try:
                job = self._trouble(customer, kinds)
                self._download(customer, job)
            except OverdueError as error:
                is_overdue = True
                self._log.say("overdue", jobs=[str(error)])
        evidence = self._gather()
        found = violations(evidence)
        (self._folder / "violations.txt").write_text("".join(f"{one}\n" for one in found))
        return self._verdict(evidence, kinds, found, time.monotonic() - begun, is_overdue)

    def look_again(self) -> list[str]:
        """Results that have changed since."""
        self._journal.look()
        evidence = Evidence.gather(self._plan, self._folder, self._stage.ledger)
        return [f"since round {self._name}: {one}" for one in results_changed(evidence)]

    def _trouble(self, customer: Customer, kinds: tuple[Kind, ...]) -> str:
        """The job, ended. Raises: OverdueError."""
        stage, subjects = self._stage, self._stage.choose(self._chance)
        order = (subjects, stage.course.steps, SEED, self._name)
        job = customer.submit(*order).job
        goal = self._chance.uniform(_EARLIEST, _LATEST)

        def is_moment() -> bool:
            there = customer.look(job)
            self._progress = progress(there) if there else 0.0
            return self._progress >= goal

        stage.wait(f"{goal:.0%} of job {job}", is_moment)
        time.sleep(self._chance.uniform(0, stage.course.lease / _TELLINGS))
        keys = JobKeys(self._plan.tenant, job)
        hits = Hits(stage.service, stage.ledger, self._log, self._chance, keys)

        def is_calm() -> bool:
            hits.tend()
            there = customer.look(job)
            return bool(there and there.ended) and hits.settled and stage.is_whole()

        # A client that asks again at once has a thread of its own: it waits until it is answered.
        with ThreadPoolExecutor(1) as pool:
            try:
                hits.strike(kinds)
                again = pool.submit(customer.submit, *order)
                stage.wait(f"the end of job {job} and a whole service", is_calm)
            except OverdueError as error:
                raise OverdueError(f"{error}; missing: {hits.missing()}") from error
            finally:
                hits.wake_all()
            again.result()
        self._log.say("calm")
        return job

    def _download(self, customer: Customer, job: str) -> None:
        """All that was learned, and how like it is to what is learned undisturbed."""
        for item in customer.items(job):
            told: dict[str, Any] = {"sha256": "", "exact": False, "angle": 0.0, "seeds": 0.0}
            error = ""
            if item.token:
                data = customer.token_file(item.token)
                told["sha256"] = hashlib.sha256(data).hexdigest()
                try:
                    told |= self._undisturbed.compare(item.id, Artifact.from_bytes(data).token)
                except ArtifactError as found:
                    error = str(found)
            report = item.report or {}
            self._log.say(
                "told",
                job=job,
                index=item.index,
                state=item.state,
                steps=report.get("steps", 0),
                resumed_at=report.get("resumed_at", 0),
                error=error,
                **told,
            )

    def _gather(self) -> Evidence:
        supervisor = LedgerRecovery(self._stage.ledger)
        supervisor.sweep()
        seen = supervisor.recover()
        self._log.say("passed", damaged=seen.damaged)
        return Evidence.gather(self._plan, self._folder, self._stage.ledger)

    def _verdict(
        self,
        evidence: Evidence,
        kinds: tuple[Kind, ...],
        found: list[str],
        seconds: float,
        is_overdue: bool,
    ) -> Verdict:
        told = evidence.said("told")
        return Verdict(
            name=self._name,
            kinds=kinds,
            violations=found,
            seconds=seconds,
            progress=self._progress,
            recovery=recovery_of(evidence) if evidence.said("hit") else None,
            attempts=len(evidence.said("claimed")),
            lost=sum(line["cause"] == "lost" for line in evidence.said("over")),
            resumed=sum(line["resumed_at"] > 0 for line in told),
            tokens=len(told),
            exact=sum(line["exact"] for line in told),
            angle=max((line["angle"] for line in told), default=0.0),
            share=max((line["angle"] / line["seeds"] for line in told if line["seeds"]), default=0),
            is_overdue=is_overdue,
        )
