"""How many workers a pool should have, and which of those that there are should go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.offers import Offer
from services.supervision.sharing import Verdict
from services.training.members import Member

_ALL = Verdict()


@dataclass(frozen=True, slots=True)
class Change:
    """What to do about a pool."""

    wanted: int
    start: int = 0
    drain: tuple[str, ...] = ()


def worth(offer: Offer, open_items: int) -> int:
    """Workers that a backlog is worth: enough that every open item has a slot, within the limits of
    the offer.
    """
    return min(max(math.ceil(open_items / offer.slots), offer.min_workers), offer.max_workers)


def resize(
    wanted: int, members: Sequence[Member], *, patience: float, verdict: Verdict = _ALL
) -> Change:
    """To so many workers, or to what others leave.

    Who has something in hand is left alone, unless others have waited for its place: the end of a
    job empties it. patience: seconds for which an idle worker is kept where nobody waits, since the
    next job may come at once and models load slowly.
    """
    most = wanted if verdict.limit is None else min(wanted, verdict.limit)
    keep = patience if verdict.limit is None else 0.0
    staying = [each for each in members if each.state != "draining"]
    if len(staying) <= most:
        return Change(wanted, start=most - len(staying))
    spare = [
        each
        for each in staying
        if each.state == "pending" or (not each.in_hand and each.idle >= keep) or verdict.yields
    ]
    # Those that wait for a node first, so that no node is made for nothing.
    spare.sort(key=lambda each: (each.placed, each.state != "pending", each.in_hand, -each.idle))
    return Change(wanted, drain=tuple(each.name for each in spare[: len(staying) - most]))
