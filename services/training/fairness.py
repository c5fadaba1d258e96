"""Slots among tenants: nobody waits for the subjects of one who has more slots to end.

A subject of a tenant with at least two slots fewer than another takes one of the other's. Whoever
loses it waits aside, with what it has learned, and goes on as soon as there is room. So of two
tenants each soon has half of the slots, however much the other has submitted and however long its
subjects take; a small job takes about as long as it would alone.
"""

from collections import Counter
from collections.abc import Iterable

from services.training.batch import Seat


def slots_of(seats: Iterable[Seat]) -> Counter[str]:
    """How many each tenant has."""
    return Counter(seat.tenant for seat in seats)


def is_owed(has: int, slots: Counter[str]) -> bool:
    """Whether a tenant who has so many gets one that is another's. Each such move makes shares more
    even, so that they come to rest.
    """
    return max(slots.values(), default=0) > has + 1
