"""Fair share: how many workers each model may have of a cluster that all share.

Where there is room for all, or an autoscaler makes more, no model is limited. Where a model waits
for its share, those that have theirs release workers that wait for a place, and after a while
workers that have one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.contracts.models import ServedModel
from services.training.pool import WorkerStatus

Resources = Mapping[str, float]
"""Amounts by name, as Ray has them: CPU, GPU."""

_ROUNDING = 1e-6  # of amounts that Ray adds up in floating point


@dataclass(frozen=True, slots=True)
class ResourceClaim:
    """The resources that a model wants from the cluster, and those it has."""

    needs: Resources
    """Of one worker."""
    desired: int
    """Workers that its backlog is worth."""
    min_workers: int = 0
    """Of these, those that stay without a backlog: they get places first."""
    placed: int = 0
    """Workers that have a place."""
    loading: bool = False
    """Whether all of these still load their models."""
    since_s: float = 0.0
    """For how long it has had running workers, or has had none with a place."""


@dataclass(frozen=True, slots=True)
class ShareDecision:
    """The current decision of fair sharing for a model."""

    limit: int | None = None
    """Workers; None: as many as its backlog is worth."""
    must_release: bool = False
    """Whether running workers have to go, too."""


def shares(
    claims: Mapping[str, ResourceClaim], nodes: Sequence[Resources], *, turn_s: float
) -> dict[str, int]:
    """Return how many workers of each model there should be on these nodes.

    Dominant resource fairness (Ghodsi et al., NSDI 2011): places are given one by one, each to the
    model with the smallest share of the resource that its workers need most.

    nodes: what each node has for all workers together.
    turn_s: for which a scarce place is a model's once it has loaded; then one that has waited
        for as long goes before it.
    """
    free = [dict(node) for node in nodes]
    names = {name for claim in claims.values() for name in claim.needs}
    totals = {name: sum(node.get(name, 0.0) for node in nodes) for name in names}
    given = dict.fromkeys(claims, 0)
    unsatisfied = {name for name, claim in claims.items() if claim.desired}
    while unsatisfied:
        name = min(
            unsatisfied,
            key=lambda each: (*_priority(claims[each], given[each], totals, turn_s), each),
        )
        if not _place(claims[name].needs, free):
            unsatisfied.remove(name)
            continue
        given[name] += 1
        if given[name] == claims[name].desired:
            unsatisfied.remove(name)
    return given


def _priority(
    claim: ResourceClaim, given: int, totals: Resources, turn_s: float
) -> tuple[object, ...]:
    """Return the key of a model's next place; the lowest comes first."""
    turn_is_over = claim.since_s > turn_s
    # Between equal shares the model that has waited longest comes first, and of those that have a
    # place the latest keeps it longest. In order: running, waiting for longer than a turn, running
    # for longer than a turn, waiting.
    if claim.placed:
        turn = (2 if turn_is_over and not claim.loading else 0, claim.since_s)
    else:
        turn = (1 if turn_is_over else 3, -claim.since_s)
    return given >= claim.min_workers, _dominant_share(claim.needs, given, totals), turn


def _dominant_share(needs: Resources, given: int, totals: Resources) -> float:
    shares = [given * amount / totals[name] for name, amount in needs.items() if totals[name]]
    return round(max(shares, default=0.0), 9)


def _place(needs: Resources, free: list[dict[str, float]]) -> bool:
    """Put a worker on the first node that has room for it; return whether there is one."""
    for node in free:
        if all(node.get(name, 0.0) >= amount - _ROUNDING for name, amount in needs.items()):
            for name, amount in needs.items():
                node[name] = node.get(name, 0.0) - amount
            return True
    return False


class FairShare:
    """Remembers which models wait for their share, and for how long."""

    def __init__(
        self, clock: Callable[[], float], *, interval_s: float = 120, turn_s: float = 600
    ) -> None:
        """Start without memory.

        interval_s: until running workers go for a model that waits. It leaves an autoscaler
            time to make a node.
        turn_s: as in `shares`.
        """
        self._clock, self._interval_s, self._turn_s = clock, interval_s, turn_s
        self._phase: dict[str, tuple[str, float]] = {}
        """Whether a model has running, loading or no workers, and since when."""
        self._waiting_since: dict[str, float] = {}

    def decide(
        self,
        models: Mapping[str, ServedModel],
        desired: Mapping[str, int],
        workers: Mapping[str, Sequence[WorkerStatus]],
        nodes: Sequence[Resources],
    ) -> dict[str, ShareDecision]:
        """Return the decision for each model.

        desired: workers that each backlog is worth.
        nodes: what each node has for workers, including what those that there are have.
        """
        now = self._clock()
        claims = {
            name: self._claim(name, model, desired[name], workers.get(name, ()), now)
            for name, model in models.items()
        }
        fair = shares(claims, nodes, turn_s=self._turn_s)
        waiting = {
            name
            for name, claim in claims.items()
            # One without a worker to be placed, such as after failed starts, waits for nothing.
            if claim.placed < fair[name]
            and any(not worker.placed for worker in workers.get(name, ()))
        }
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        overdue = any(now - since >= self._interval_s for since in self._waiting_since.values())
        return {
            name: ShareDecision(
                fair[name], must_release=overdue and claims[name].placed > fair[name]
            )
            if waiting and name not in waiting
            else ShareDecision()
            for name in models
        }

    def _claim(
        self,
        name: str,
        model: ServedModel,
        desired: int,
        workers: Sequence[WorkerStatus],
        now: float,
    ) -> ResourceClaim:
        states = [each.state for each in workers if each.placed and each.state != "draining"]
        phase = "running" if "running" in states else "loading" if states else "none"
        before, since = self._phase.get(name, (phase, now))
        # A model that wants nothing does not wait.
        if before != phase or not (states or desired):
            since = now
        self._phase[name] = phase, since
        return ResourceClaim(
            {"GPU": model.gpus, "CPU": model.cpus},
            desired,
            min(model.min_workers, desired),
            len(states),
            phase == "loading",
            now - since,
        )
