"""How many workers a pool should have, and which of those that there are should go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.offers import Offer
from services.training.members import Member


@dataclass(frozen=True, slots=True)
class Change:
    """What to do about a pool."""

    wanted: int
    start: int = 0
    drain: tuple[str, ...] = ()


def resize(offer: Offer, open_items: int, members: Sequence[Member], *, patience: float) -> Change:
    """Enough workers that every open item has a slot, within the limits of the offer.

    Who has something in hand is left alone: the end of a job empties it. patience: seconds for
    which an idle worker is kept, since the next job may come at once and models load slowly.
    """
    wanted = min(max(math.ceil(open_items / offer.slots), offer.min_workers), offer.max_workers)
    staying = [each for each in members if each.state != "draining"]
    if len(staying) <= wanted:
        return Change(wanted, start=wanted - len(staying))
    spare = [
        each
        for each in staying
        if each.state == "pending" or (not each.in_hand and each.idle >= patience)
    ]
    # Those that wait for a node first, so that no node is made for nothing.
    spare.sort(key=lambda each: (each.state != "pending", -each.idle))
    return Change(wanted, drain=tuple(each.name for each in spare[: len(staying) - wanted]))
