"""A round in figures, and many rounds in a table."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from chaos.processes.checker.failures import failed_innocents
from chaos.processes.history import Evidence
from chaos.processes.lines import Line
from chaos.processes.supervisor import PAUSE

_ROUNDING = 1.0
"""Seconds by which a lease is given more time."""
_LOOKS = 8
"""Times `look` until a worker looks through a job again that had nothing to do."""


@dataclass(frozen=True)
class Figures:
    """Of one round."""

    seconds: float
    killed: int
    poisoned: int
    stopped: int
    napped: int
    """Stopped right before a write."""
    terminated: int
    crashes: int
    requests: int
    jobs: int
    items: int
    attempts: int
    lost: int
    """Attempts whose workers died or lost their leases."""
    worn_out: int
    """Items that failed only because they were lost as often as is allowed."""
    bound: float
    """Seconds that a takeover may take where nothing else is in its way."""
    takeovers: list[float] = field(default_factory=list)
    """Seconds from a worker's death by SIGKILL to the next claim of each item that it had."""

    def line(self) -> str:
        taken = "no takeover"
        if self.takeovers:
            taken = f"takeover {median(self.takeovers):.1f} s, at worst {max(self.takeovers):.1f} s"
        return (
            f"{self.seconds:5.1f} s: {self.killed} killed, {self.poisoned} poisoned, "
            f"{self.stopped} stopped, {self.napped} napped, {self.terminated} told to end, "
            f"{self.crashes} crashes; "
            f"{self.requests} requests, {self.jobs} jobs, {self.items} items, "
            f"{self.attempts} attempts, {self.lost} lost, {self.worn_out} worn out; "
            f"{len(self.takeovers)} x {taken} (bound {self.bound:.1f} s)"
        )


def figures_of(evidence: Evidence, seconds: float) -> Figures:
    plan = evidence.plan
    ends = (name for name in evidence.objects if name.endswith(".ended"))
    return Figures(
        seconds=seconds,
        killed=len(evidence.said("killed")),
        poisoned=len(evidence.said("poison")),
        stopped=len(evidence.said("stopped")),
        napped=len(evidence.said("napped")),
        terminated=len(evidence.said("terminated")),
        crashes=len(evidence.said("crash-asked")),
        requests=len(evidence.requests),
        jobs=len(evidence.jobs),
        items=sum(len(evidence.request(job).items) for job in evidence.jobs),
        attempts=len(evidence.said("start")),
        lost=sum(b'"cause":"lost"' in evidence.objects[name] for name in ends),
        worn_out=len(failed_innocents(evidence)),
        bound=plan.lease + _ROUNDING + PAUSE + _LOOKS * plan.look,
        takeovers=takeovers(evidence),
    )


def takeovers(evidence: Evidence) -> list[float]:
    """From each SIGKILL of a worker to the next claims of what it had in hand, in seconds."""
    deaths = {line["of"]: line.t for line in evidence.said("killed")}
    deaths |= {line.pid: line.t for line in evidence.said("poison")}
    told = evidence.by_attempt
    taken: list[float] = []
    for (job, place, number), lines in told.items():
        death = deaths.get(lines[0].pid)
        if death is None or any(_is_end(line) for line in lines):
            continue
        following = next((n for n in range(number + 1, 100) if (job, place, n) in told), None)
        if following:
            taken.append(told[job, place, following][0]["claimed"] - death)
    return [one for one in taken if one > 0]


def _is_end(line: Line) -> bool:
    return line.what in ("ended", "superseded", "released", "abandoned", "refused")


def table(rounds: Sequence[Figures]) -> str:
    """All rounds together."""
    sums: dict[str, float] = defaultdict(float)
    for figures in rounds:
        for name, value in vars(figures).items():
            if isinstance(value, int | float) and name != "bound":
                sums[name] += value
    taken = sorted(one for figures in rounds for one in figures.takeovers)
    rows = [("rounds", f"{len(rounds)}")]
    rows += [(name.replace("_", " "), f"{value:,.0f}") for name, value in sums.items()]
    if taken:
        rows += [
            ("takeovers", f"{len(taken):,}"),
            ("median takeover", f"{median(taken):.1f} s"),
            ("takeover of 99%", f"{taken[int(0.99 * (len(taken) - 1))]:.1f} s"),
            ("worst takeover", f"{taken[-1]:.1f} s"),
            ("bound", f"{max(figures.bound for figures in rounds):.1f} s"),
        ]
    return "\n".join(f"{name:20}{value:>12}" for name, value in rows)
