"""How long it took after a hit until all was in hand again."""

from dataclasses import dataclass, field

from chaos.processes.history import Evidence, attempt_of
from chaos.processes.lines import Line
from services.ledger.keys import ItemRef


@dataclass(frozen=True)
class Recovery:
    """Of one round. Times in seconds since the first hit."""

    in_hand: int
    """Attempts that ended in nobody's hands by it."""
    held: float | None
    """Until each of these items was claimed anew, or had ended; None: there were none, or one is
    still in nobody's hands.
    """
    ready: float
    """Until those were there who had to bring it about: a supervisor, a worker with its model."""
    left: int
    """Workers that were not hit."""
    back: dict[str, float] = field(default_factory=dict)
    """Until each that was hit did its work again."""
    lives: float | None = None
    """Until a worker lived that did not before."""

    @property
    def taken(self) -> float | None:
        """What the ledger's lease is to account for."""
        return None if self.held is None else max(0.0, self.held - self.ready)

    @property
    def is_complete(self) -> bool:
        return self.held is not None or not self.in_hand


def recovery_of(evidence: Evidence) -> Recovery:
    """By the journal. Raises: IndexError if nobody was hit."""
    hits = evidence.said("hit")
    since = hits[0].t
    left = len(evidence.said("moment")[-1]["left"])
    lost = _in_hand(evidence, hits)
    held = [_held_again(evidence, line) for line in lost]
    back = {line["name"]: line.t - since for line in evidence.said("back")}
    lives = [line.t - since for line in evidence.said("lives") if line.t > since]
    # With nobody left, the first new one has to load its model.
    needed = [back.get("supervisor", 0.0), 0.0 if left else min(lives, default=0.0)]
    done = [one for one in held if one is not None]
    return Recovery(
        in_hand=len(lost),
        held=max(done) - since if lost and len(done) == len(held) else None,
        ready=max(needed),
        left=left,
        back=back,
        lives=min(lives, default=None),
    )


def _in_hand(evidence: Evidence, hits: list[Line]) -> list[Line]:
    """Claims of those who were hit which had not come to an end by then."""
    whose = {hand: hit.t for hit in hits for hand in _hands(evidence, hit)}
    return [
        line
        for line in evidence.said("claimed")
        if line["worker"] in whose and not _was_over(evidence, line, whose[line["worker"]])
    ]


def _hands(evidence: Evidence, hit: Line) -> set[str]:
    """Workers that were hit; with the node, all who lived."""
    if hit["kind"] != "node":
        return set(hit["hands"])
    return {line["worker"] for line in evidence.said("lives") if line.t < hit.t}


def _was_over(evidence: Evidence, claim: Line, at: float) -> bool:
    job, place, number = attempt_of(claim)
    ended = _ended(evidence, job, place)
    over = (line for line in evidence.said("over") if attempt_of(line) == (job, place, number))
    return (ended is not None and ended <= at) or any(line.t <= at for line in over)


def _held_again(evidence: Evidence, lost: Line) -> float | None:
    """When somebody had the item in hand again, or it had ended."""
    job, place, number = attempt_of(lost)
    times = [
        line.t
        for line in evidence.said("claimed")
        if attempt_of(line)[:2] == (job, place) and line["number"] > number
    ]
    if (ended := _ended(evidence, job, place)) is not None:
        times.append(ended)
    over = (attempt_of(line) for line in evidence.said("over"))
    stopped = (line["hands"] for line in evidence.said("hit") if line["kind"] == "stopped")
    if attempt_of(lost) not in over and any(lost["worker"] in hands for hands in stopped):
        # Nobody has held its worker for dead, who goes on as soon as it is awake.
        times += [line.t for line in evidence.said("woken")]
    return min(times, default=None)


def _ended(evidence: Evidence, job: str, place: ItemRef) -> float | None:
    key = evidence.keys(job).result(place)
    return next((line.t for line in evidence.said("saw") if line["key"] == key), None)
