"""Fair share: how many workers each model may have of a cluster that all share.

Where there is room for all, or an autoscaler makes more, no model is limited. Where a model waits
for its share, those that have theirs release workers that wait for a place, and after a while
workers that have one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.contracts.models import ServedModel
from services.contracts.node_labels import fits
from services.training.pool import ClusterNode, Resources, WorkerStatus

_ROUNDING = 1e-6
"""Error of amounts that Ray adds up in floating point."""


@dataclass(frozen=True, slots=True)
class ResourceClaim:
    """The resources that a model wants from the cluster, and those it has."""

    needs: Resources
    """Resources of one worker."""
    desired: int
    """Workers that its backlog is worth."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Selector of the nodes that its workers may run on."""
    min_workers: int = 0
    """Workers, among the desired, that stay without a backlog: they get places first."""
    placed: int = 0
    """Workers that have a place."""
    loading: bool = False
    """Whether all of these still load their models."""
    since_s: float = 0.0
    """Time for which it has had running workers, or has had none with a place."""

    def fits(self, node: ClusterNode) -> bool:
        """Return whether its workers may run on a node, if there is room."""
        return fits(self.labels, node.labels)


@dataclass(frozen=True, slots=True)
class ShareDecision:
    """The current decision of fair sharing for a model."""

    limit: int | None = None
    """Workers; None: as many as its backlog is worth."""
    must_release: bool = False
    """Whether running workers have to go, too."""


def shares(
    claims: Mapping[str, ResourceClaim], nodes: Sequence[ClusterNode], *, turn_s: float
) -> dict[str, int]:
    """Return how many workers of each model there should be on these nodes.

    Dominant resource fairness (Ghodsi et al., NSDI 2011): places are given one by one, each to the
    model with the smallest share of the resource that its workers need most. A model's share is
    that of the nodes that its workers may run on.

    nodes: what each node has for all workers together.
    turn_s: time for which a scarce place belongs to a model once it has loaded. After that, a model
        that has waited for as long goes first.
    """
    wanting = [claim for claim in claims.values() if claim.desired]
    # A model takes the nodes first that the fewest others may use: on the others it would leave
    # less to models that have no choice.
    ordered = sorted(nodes, key=lambda node: sum(claim.fits(node) for claim in wanting))
    free = [dict(node.resources) for node in ordered]
    eligible = {
        name: [place for place, node in zip(free, ordered, strict=True) if claim.fits(node)]
        for name, claim in claims.items()
    }
    totals = {name: _totals(claims[name].needs, places) for name, places in eligible.items()}
    given = dict.fromkeys(claims, 0)
    unsatisfied = {name for name, claim in claims.items() if claim.desired}
    while unsatisfied:
        name = min(
            unsatisfied,
            key=lambda each: (*_priority(claims[each], given[each], totals[each], turn_s), each),
        )
        if not _place(claims[name].needs, eligible[name]):
            unsatisfied.remove(name)
            continue
        given[name] += 1
        if given[name] == claims[name].desired:
            unsatisfied.remove(name)
    return given


def _totals(needs: Resources, places: Sequence[Resources]) -> Resources:
    return {name: sum(place.get(name, 0.0) for place in places) for name in needs}


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
        """Create it before any model waits.

        interval_s: time until running workers are drained for a model that waits. An autoscaler
            can add a node in that time.
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
        nodes: Sequence[ClusterNode],
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
            # A model without a worker to be placed, such as after failed starts, does not wait.
            if claim.placed < fair[name]
            and any(not worker.placed for worker in workers.get(name, ()))
        }
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        decisions = dict.fromkeys(models, ShareDecision())
        for name in models.keys() - waiting:
            # A model on other nodes cannot make room for one that waits.
            rivals = [each for each in waiting if _share_a_node(claims[name], claims[each], nodes)]
            if rivals:
                overdue = any(
                    now - self._waiting_since[each] >= self._interval_s for each in rivals
                )
                must_release = overdue and claims[name].placed > fair[name]
                decisions[name] = ShareDecision(fair[name], must_release)
        return decisions

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
        # A model that has no work and no workers does not wait.
        if before != phase or not (states or desired):
            since = now
        self._phase[name] = phase, since
        return ResourceClaim(
            {"GPU": model.gpus, "CPU": model.cpus},
            desired,
            model.labels,
            min(model.min_workers, desired),
            len(states),
            phase == "loading",
            now - since,
        )


def _share_a_node(one: ResourceClaim, other: ResourceClaim, nodes: Sequence[ClusterNode]) -> bool:
    return any(one.fits(node) and other.fits(node) for node in nodes)
