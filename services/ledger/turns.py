"""Whose turn it is: a fair choice between tenants, made by each worker for itself.

A worker serves the tenant of whom it has the fewest attempts in hand, and among those the one that
it has served least. If all workers share each of their slots so, the pool is shared so, and nobody
has to count for all. A tenant who comes anew begins level with the least served one: what others
had before is no debt to it, nor its own idleness a credit.
"""

import random
from collections import Counter
from collections.abc import Iterable


class Turns:
    """One worker's."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._served: dict[str, int] = {}
        self._chance = chance or random.Random()

    def order(self, tenants: Iterable[str], in_hand: Counter[str]) -> list[str]:
        """Tenants who wait, whose turn comes first first. Ties are drawn, so that many workers do
        not all begin with the same one.
        """
        waiting = list(tenants)
        level = min((self._served[one] for one in waiting if one in self._served), default=0)
        # Who waits no more is forgotten, and comes anew one day.
        self._served = {one: self._served.get(one, level) for one in waiting}
        return sorted(
            waiting, key=lambda one: (in_hand[one], self._served[one], self._chance.random())
        )

    def served(self, tenant: str, in_vain: Iterable[str] = ()) -> None:
        """It has got something, after those in `in_vain` were asked and had nothing to give. That
        they could not take their turn is no credit to them.
        """
        level = self._served.get(tenant, 0)
        for one in in_vain:
            self._served[one] = max(self._served.get(one, 0), level)
        self._served[tenant] = level + 1
