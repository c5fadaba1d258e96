"""Statistics of a round, and a table of many rounds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from chaos.checker.attempts import ATTEMPT_ENDS, failed_innocents
from chaos.history import History
from chaos.processes.supervisor import RECOVERY_INTERVAL_S

_LEASE_ROUNDING_S = 1.0
"""Grace of a lease, since the store's times are in whole seconds."""
_POLLS_OF_IDLE_JOB = 8
"""Poll intervals until a worker looks through a job again in which it found no work."""


@dataclass(frozen=True)
class RoundStatistics:
    """Counts of what happened in one round."""

    seconds: float
    killed: int
    poisoned: int
    paused: int
    paused_before_write: int
    terminated: int
    crashes: int
    operations: int
    jobs: int
    items: int
    attempts: int
    lost: int
    """Attempts whose workers died or lost their leases."""
    failed_innocents: int
    """Items that failed only because their attempts were lost as often as is allowed."""
    bound_s: float
    """The longest takeover where nothing else delays it."""
    takeovers_s: list[float] = field(default_factory=list)
    """Times from a worker's death by SIGKILL to the next claim of each item that it ran."""

    def summary(self) -> str:
        """Return one line about the round."""
        takeovers = "no takeover"
        if times := self.takeovers_s:
            takeovers = f"takeover {median(times):.1f} s, at worst {max(times):.1f} s"
        return (
            f"{self.seconds:5.1f} s: {self.killed} killed, {self.poisoned} poisoned, "
            f"{self.paused} paused, {self.paused_before_write} paused before a write, "
            f"{self.terminated} terminated, {self.crashes} crashes; "
            f"{self.operations} operations, {self.jobs} jobs, {self.items} items, "
            f"{self.attempts} attempts, {self.lost} lost, {self.failed_innocents} lost for good; "
            f"{len(self.takeovers_s)} x {takeovers} (bound {self.bound_s:.1f} s)"
        )


def round_statistics(history: History, seconds: float) -> RoundStatistics:
    """Count what happened in a round that took so many seconds."""
    config = history.config
    ends = (name for name in history.objects if name.endswith(".ended"))
    return RoundStatistics(
        seconds=seconds,
        killed=len(history.events("killed")),
        poisoned=len(history.events("poison")),
        paused=len(history.events("paused")),
        paused_before_write=len(history.events("paused_before_write")),
        terminated=len(history.events("terminated")),
        crashes=len(history.events("crash_started")),
        operations=len(history.all_operations),
        jobs=len(history.jobs),
        items=sum(len(history.request(job).items) for job in history.jobs),
        attempts=len(history.events("attempt_started")),
        lost=sum(b'"cause":"lost"' in history.objects[name] for name in ends),
        failed_innocents=len(failed_innocents(history)),
        bound_s=config.lease_s
        + _LEASE_ROUNDING_S
        + RECOVERY_INTERVAL_S
        + _POLLS_OF_IDLE_JOB * config.poll_interval_s,
        takeovers_s=_takeovers_s(history),
    )


def _takeovers_s(history: History) -> list[float]:
    deaths = {event["target_pid"]: event.time for event in history.events("killed")}
    deaths |= {event.pid: event.time for event in history.events("poison")}
    attempts = history.events_by_attempt
    times: list[float] = []
    for (job, item_ref, number), events in attempts.items():
        died_at = deaths.get(events[0].pid)
        if died_at is None or any(event.type in ATTEMPT_ENDS for event in events):
            continue
        later = (n for n in range(number + 1, 100) if (job, item_ref, n) in attempts)
        if following := next(later, None):
            times.append(attempts[job, item_ref, following][0]["claimed_at"] - died_at)
    return [time for time in times if time > 0]


def table(rounds: Sequence[RoundStatistics]) -> str:
    """Return the sums of all rounds, and the quantiles of their takeovers."""
    sums: dict[str, float] = defaultdict(float)
    for statistics in rounds:
        for name, value in vars(statistics).items():
            if isinstance(value, int | float) and name != "bound_s":
                sums[name] += value
    times = sorted(time for statistics in rounds for time in statistics.takeovers_s)
    rows = [("rounds", f"{len(rounds)}")]
    rows += [(name.replace("_", " "), f"{value:,.0f}") for name, value in sums.items()]
    if times:
        rows += [
            ("takeovers", f"{len(times):,}"),
            ("median takeover", f"{median(times):.1f} s"),
            ("takeover of 99%", f"{times[int(0.99 * (len(times) - 1))]:.1f} s"),
            ("worst takeover", f"{times[-1]:.1f} s"),
            ("bound", f"{max(statistics.bound_s for statistics in rounds):.1f} s"),
        ]
    return "\n".join(f"{name:20}{value:>12}" for name, value in rows)
