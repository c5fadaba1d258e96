"""What each offer may have of a cluster that all share.

Where there is room for all, or more is made by an autoscaler, nobody is limited. Where an offer
waits for its share, those that have theirs give up workers that wait for a place, and after a while
such that have one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.contracts.models import ServedModel
from services.training.pool import WorkerStatus

Resources = Mapping[str, float]
"""Amounts by name, as Ray has them: CPU, GPU."""


@dataclass(frozen=True, slots=True)
class ResourceClaim:
    """What an offer wants of the cluster, and has."""

    needs: Resources
    """Of one worker."""
    wanted: int
    """Workers that its backlog is worth."""
    least: int = 0
    """Of these, such as stay without a backlog: they go first."""
    placed: int = 0
    """Workers that have a place."""
    loading: bool = False
    """All of these load their models still."""
    since: float = 0.0
    """Seconds for which it has had workers at work, or has had none that has a place."""


@dataclass(frozen=True, slots=True)
class ShareDecision:
    """What sharing means for an offer now."""

    limit: int | None = None
    """Workers; None: as many as its backlog is worth."""
    yields: bool = False
    """Workers that are at work go, too."""


def shares(
    claims: Mapping[str, ResourceClaim], nodes: Sequence[Resources], *, turn: float
) -> dict[str, int]:
    """How many workers of each offer there should be on these nodes: one by one to whoever has the
    smallest share of what its workers need most (dominant resource fairness, Ghodsi et al., 2011).

    nodes: what each has for all workers together. turn: seconds for which few places are an
    offer's, once its models are loaded; then one that has waited for as long goes before it.
    """
    free = [dict(node) for node in nodes]
    totals = {what: sum(node.get(what, 0.0) for node in nodes) for what in _names(claims)}
    given = dict.fromkeys(claims, 0)
    hungry = {name for name, claim in claims.items() if claim.wanted}
    while hungry:
        name = min(hungry, key=lambda one: _order(claims[one], given[one], one, totals, turn))
        given[name] += 1
        if not _place(claims[name].needs, free):
            given[name] -= 1
            hungry.remove(name)
        elif given[name] == claims[name].wanted:
            hungry.remove(name)
    return given


def _names(claims: Mapping[str, ResourceClaim]) -> set[str]:
    return {what for claim in claims.values() for what in claim.needs}


def _order(
    claim: ResourceClaim, given: int, name: str, totals: Resources, turn: float
) -> tuple[object, ...]:
    """Who gets the next place: the first by this."""
    overdue = claim.since > turn
    # Whoever has waited for longest comes first, and whoever has come last stays longest.
    if claim.placed:
        place = (2 if overdue and not claim.loading else 0, claim.since)
    else:
        place = (1 if overdue else 3, -claim.since)
    return given >= claim.least, _dominant(claim.needs, given, totals), place, name


def _dominant(needs: Resources, given: int, totals: Resources) -> float:
    parts = [given * amount / totals[what] for what, amount in needs.items() if totals[what]]
    return round(max(parts, default=0.0), 9)


def _place(needs: Resources, free: list[dict[str, float]]) -> bool:
    """Whether a worker fits on a node; it is there then."""
    for node in free:
        if all(node.get(what, 0.0) >= amount - 1e-6 for what, amount in needs.items()):
            for what, amount in needs.items():
                node[what] = node.get(what, 0.0) - amount
            return True
    return False


class FairShare:
    """Who waits for its share, and for how long."""

    def __init__(
        self, clock: Callable[[], float], *, patience: float = 120, turn: float = 600
    ) -> None:
        """Seconds: patience, until workers at work go for one that waits; a node that an autoscaler
        makes may come before. turn: as of `shares`.
        """
        self._clock, self._patience, self._turn = clock, patience, turn
        self._changed: dict[str, tuple[str, float]] = {}
        """Whether an offer had workers at work or loading, and since when."""
        self._waiting: dict[str, float] = {}
        """Since when offers wait for their share."""

    def verdicts(
        self,
        served_models: Mapping[str, ServedModel],
        wanted: Mapping[str, int],
        members: Mapping[str, Sequence[WorkerStatus]],
        nodes: Sequence[Resources],
    ) -> dict[str, ShareDecision]:
        """wanted: workers that each backlog is worth. nodes: what they have for workers, those that
        are there included.
        """
        now = self._clock()
        claims = {
            name: self._claim(name, served_model, wanted[name], members.get(name, ()), now)
            for name, served_model in served_models.items()
        }
        fair = shares(claims, nodes, turn=self._turn)
        waiting = {
            name
            for name, claim in claims.items()
            # One that has nobody to be placed, such as after failed starts, waits for nothing.
            if claim.placed < fair[name]
            and any(not member.placed for member in members.get(name, ()))
        }
        self._waiting = {name: self._waiting.get(name, now) for name in waiting}
        yields = any(now - since >= self._patience for since in self._waiting.values())
        return {
            name: ShareDecision(fair[name], yields=yields and claims[name].placed > fair[name])
            if waiting and name not in waiting
            else ShareDecision()
            for name in served_models
        }

    def _claim(
        self,
        name: str,
        served_model: ServedModel,
        wanted: int,
        members: Sequence[WorkerStatus],
        now: float,
    ) -> ResourceClaim:
        states = [each.state for each in members if each.placed and each.state != "draining"]
        has = "work" if "running" in states else "loading" if states else "none"
        had, since = self._changed.get(name, (has, now))
        # Whoever wants nothing does not wait.
        if had != has or not (states or wanted):
            since = now
        self._changed[name] = has, since
        return ResourceClaim(
            {"GPU": served_model.gpus, "CPU": served_model.cpus},
            wanted,
            min(served_model.min_workers, wanted),
            len(states),
            has == "loading",
            now - since,
        )
