"""One round: a job, a fault while it runs, the recovery of the service, then the checks."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from chaos.checker import violations
from chaos.checker.results import result_changed
from chaos.history import History, HistoryLog, digest
from chaos.service.checker import CHECKS
from chaos.service.client import ServiceClient, progress
from chaos.service.environment import SEED, Environment, OverdueError
from chaos.service.nemesis import Kind, ServiceNemesis
from chaos.service.observer import StoreObserver
from chaos.service.recovery import FaultRecovery, measure_recovery
from chaos.service.tokens import ReferenceTokens
from dti_engine.artifacts.artifact import Artifact
from dti_engine.errors import ArtifactError
from services.ledger.keys import JobKeys
from services.ledger.recovery import Recovery

_MIN_PROGRESS, _MAX_PROGRESS = 0.05, 0.7
"""The share of the work that is done when the fault comes."""
_REPORTS_PER_LEASE = 4
"""Workers report progress so often; faults must not all come right after a report."""


@dataclass(frozen=True)
class RoundResult:
    """The figures of a round, and the violations that the checks found."""

    name: str
    kinds: tuple[Kind, ...]
    violations: list[str]
    seconds: float = 0.0
    """From the submission until the service was whole again."""
    progress: float = 0.0
    """Share of the job's work that was done when the fault came."""
    recovery: FaultRecovery | None = None
    attempts: int = 0
    lost: int = 0
    resumed: int = 0
    """Tokens that were trained from a checkpoint on."""
    tokens: int = 0
    exact: int = 0
    """Tokens that equal the reference bit for bit."""
    max_angle: float = 0.0
    """The largest angle to a reference token, in degrees."""
    max_angle_share: float = 0.0
    """The largest share of the angle between two seeds."""
    is_overdue: bool = field(default=False, compare=False)


class Round:
    """One round. Call `run`, and `check_results` again after all rounds."""

    def __init__(self, environment: Environment, reference: ReferenceTokens, name: str) -> None:
        self._environment, self._reference, self._name = environment, reference, name
        self._config = environment.config.round(name)
        self._folder = environment.folder / name
        self._folder.mkdir()
        self._log = HistoryLog(self._folder, "round")
        self._observer = StoreObserver(
            environment.ledger, self._config.tenant, HistoryLog(self._folder, "observer")
        )
        self._rng = random.Random(f"{environment.config.seed}/{name}")
        self._progress = 0.0

    def run(self, kinds: tuple[Kind, ...]) -> RoundResult:
        """Run the round with these faults, and check it."""
        config, started_at = self._environment.config, time.monotonic()
        self._log.append(
            "round_started",
            kinds=kinds,
            steps=config.steps,
            recovery_margin_s=config.recovery_margin_s,
        )
        is_overdue = False
        with ExitStack() as stack:
            stack.enter_context(self._observer)
            log = HistoryLog(self._folder, "client-0")
            client = ServiceClient(self._environment.service, self._config.tenant, log)
            stack.callback(client.close)
            try:
                self._download(client, self._run_job(client, kinds))
            except OverdueError as error:
                is_overdue = True
                self._log.append("overdue", jobs=[str(error)])
        recovery = Recovery(self._environment.ledger)
        recovery.sweep()
        self._log.append("recovery_pass", damaged=recovery.recover().damaged)
        history = self._history()
        found = violations(history, CHECKS)
        (self._folder / "violations.txt").write_text("".join(f"{line}\n" for line in found))
        return self._result(history, kinds, found, time.monotonic() - started_at, is_overdue)

    def check_results(self) -> list[str]:
        """Return the results that have changed since the round."""
        self._observer.observe()
        return [f"since round {self._name}: {line}" for line in result_changed(self._history())]

    def _history(self) -> History:
        return History.collect(self._config, self._folder, self._environment.ledger)

    def _run_job(self, client: ServiceClient, kinds: tuple[Kind, ...]) -> str:
        """Return the job after it has ended. Raise OverdueError if it does not."""
        environment, subjects = self._environment, self._environment.draw_items(self._rng)
        request = (subjects, environment.config.steps, SEED, self._name)
        job = client.submit(*request).job
        goal = self._rng.uniform(_MIN_PROGRESS, _MAX_PROGRESS)

        def goal_is_reached() -> bool:
            state = client.poll(job)
            self._progress = progress(state) if state else 0.0
            return self._progress >= goal

        environment.wait(f"{goal:.0%} of job {job}", goal_is_reached)
        time.sleep(self._rng.uniform(0, environment.config.lease_s / _REPORTS_PER_LEASE))
        keys = JobKeys(self._config.tenant, job)
        nemesis = ServiceNemesis(
            environment.service, environment.ledger, self._log, self._rng, keys
        )

        def has_recovered() -> bool:
            nemesis.tend()
            state = client.poll(job)
            return bool(state and state.ended) and nemesis.is_settled and environment.is_whole()

        # The second submission blocks until the API is back, hence a thread of its own.
        with ThreadPoolExecutor(1) as pool:
            try:
                nemesis.inject(kinds)
                again = pool.submit(client.submit, *request)
                environment.wait(f"the end of job {job} and a whole service", has_recovered)
            except OverdueError as error:
                raise OverdueError(f"{error}; missing: {nemesis.missing()}") from error
            finally:
                nemesis.continue_all()
            again.result()
        self._log.append("faults_stopped")
        return job

    def _download(self, client: ServiceClient, job: str) -> None:
        """Download all tokens, and log how they compare with the reference."""
        for item in client.items(job):
            token: dict[str, Any] = {"sha256": "", "exact": False, "angle": 0.0, "seed_angle": 0.0}
            error = ""
            if item.token:
                data = client.token_file(item.token)
                token["sha256"] = digest(data)
                try:
                    token |= self._reference.compare(item.id, Artifact.from_bytes(data).token)
                except ArtifactError as raised:
                    error = str(raised)
            report = item.report or {}
            self._log.append(
                "downloaded",
                job=job,
                index=item.index,
                state=item.state,
                steps=report.get("steps", 0),
                resumed_at=report.get("resumed_at", 0),
                error=error,
                **token,
            )

    def _result(
        self,
        history: History,
        kinds: tuple[Kind, ...],
        found: list[str],
        seconds: float,
        is_overdue: bool,
    ) -> RoundResult:
        tokens = [event.fields for event in history.events("downloaded")]
        shares = [token["angle"] / token["seed_angle"] for token in tokens if token["seed_angle"]]
        return RoundResult(
            name=self._name,
            kinds=kinds,
            violations=found,
            seconds=seconds,
            progress=self._progress,
            recovery=measure_recovery(history) if history.events("fault") else None,
            attempts=len(history.events("claim_seen")),
            lost=sum(event["cause"] == "lost" for event in history.events("attempt_end_seen")),
            resumed=sum(token["resumed_at"] > 0 for token in tokens),
            tokens=len(tokens),
            exact=sum(token["exact"] for token in tokens),
            max_angle=max((token["angle"] for token in tokens), default=0.0),
            max_angle_share=max(shares, default=0.0),
            is_overdue=is_overdue,
        )
