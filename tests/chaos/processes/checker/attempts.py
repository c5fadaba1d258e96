"""What begins may begin, and goes on from where it was."""

from collections import defaultdict

from chaos.processes.history import Evidence, attempt_of, named
from chaos.processes.lines import Line
from services.ledger.keys import ItemRef
from services.ledger.records import ResultRecord


def cancelled_began(evidence: Evidence) -> list[str]:
    """Attempts that began though their claim was asked for after a cancellation or deletion was
    acknowledged.
    """
    since: dict[tuple[str, int | None], float] = {}
    for request in evidence.of("cancel", "delete_job", "delete_item", "delete_token"):
        if request.answered and request.done:
            about = request.job, request.index
            since[about] = min(since.get(about, float("inf")), request.answered.t)
    found: list[str] = []
    for line in evidence.said("start"):
        for about in ((line["job"], None), (line["job"], line["index"])):
            if line["asked"] > since.get(about, float("inf")):
                found.append(f"stopped at {since[about]:.3f}, and began: {line}")
    return found


def begun_after_end(evidence: Evidence) -> list[str]:
    """Attempts that were claimed and begun after their item had ended."""
    ended: dict[tuple[str, ItemRef], Line] = {}
    for line in evidence.said("ended"):
        job, place, _ = attempt_of(line)
        if line["how"] != "again":
            ended.setdefault((job, place), line)
    return [
        f"it had ended: {ended[job, place]}, and began: {line}"
        for line in evidence.said("start")
        for job, place, _ in [attempt_of(line)]
        if (job, place) in ended and line["claimed"] > ended[job, place].t
    ]


def resumed_behind(evidence: Evidence) -> list[str]:
    """Attempts that began before a checkpoint which was acknowledged before their claim, or from
    one of another item.
    """
    kept: dict[tuple[str, ItemRef], list[Line]] = defaultdict(list)
    for line in evidence.said("checkpoint"):
        kept[attempt_of(line)[:2]].append(line)
    found: list[str] = []
    for line in evidence.said("start"):
        job, place, number = attempt_of(line)
        before = [
            one["step"]
            for one in kept[job, place]
            if one.t < line["claimed"] and one["number"] < number
        ]
        if line["resume"] < max(before, default=0) and not _was_over(evidence, line):
            found.append(f"step {max(before)} was kept, and it began at {line['resume']}: {line}")
        of = line["of"]
        if of and not (named(of, job, place, of["number"]) and of["step"] == line["resume"]):
            found.append(f"the checkpoint of another: {line}")
    return found


def shared_alone(evidence: Evidence) -> list[str]:
    """Attempts that were to be alone, and were in one worker's hands beside others."""
    found: list[str] = []
    in_hand: dict[str, dict[tuple[str, ItemRef, int], bool]] = defaultdict(dict)
    for line in evidence.lines:
        if line.what == "start":
            hand = in_hand[line["worker"]]
            hand[attempt_of(line)] = line["alone"]
            if len(hand) > 1 and any(hand.values()):
                found.append(f"not alone: {sorted(map(str, hand))} with {line['worker']}")
        elif line.what in ("ended", "superseded", "released", "abandoned", "refused"):
            in_hand[line["worker"]].pop(attempt_of(line), None)
    return found


def _was_over(evidence: Evidence, line: Line) -> bool:
    """Whether the item had been ended by others, who removed its checkpoints."""
    job, place, number = attempt_of(line)
    if evidence.deletion_asked(job, place.index):
        return True
    record = evidence.outcomes(job).get(place, (None, b""))[0]
    return isinstance(record, ResultRecord) and record.attempt < number
