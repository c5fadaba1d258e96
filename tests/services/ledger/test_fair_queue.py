"""The order of tenants in the fair queue."""

import random
from collections import Counter

from services.ledger.claims import FairQueue

NONE: Counter[str] = Counter()


def _serve(turns: FairQueue, tenants: list[str], times: int) -> Counter[str]:
    """Return how often each tenant was first, if the first is served each time."""
    first = Counter[str]()
    for _ in range(times):
        tenant = turns.order(tenants, NONE)[0]
        turns.record_claim(tenant)
        first[tenant] += 1
    return first


def test_tenants_take_turns() -> None:
    assert _serve(FairQueue(), ["a", "b", "c"], 30) == {"a": 10, "b": 10, "c": 10}


def test_the_tenant_with_the_fewest_running_items_comes_first() -> None:
    turns = FairQueue()
    _serve(turns, ["a"], 50)
    assert turns.order(["a", "b"], Counter({"b": 1})) == ["a", "b"]
    assert turns.order(["a", "b", "c"], Counter(a=2, b=3, c=1)) == ["c", "a", "b"]


def test_a_new_tenant_begins_level() -> None:
    turns = FairQueue()
    _serve(turns, ["a"], 100)
    assert _serve(turns, ["a", "b"], 20) == {"a": 10, "b": 10}


def test_who_waits_no_more_is_forgotten() -> None:
    turns = FairQueue()
    _serve(turns, ["a", "b"], 10)
    _serve(turns, ["a"], 100)
    assert _serve(turns, ["a", "b"], 20) == {"a": 10, "b": 10}


def test_who_waits_with_nothing_to_do_gathers_no_credit() -> None:
    turns = FairQueue()
    for _ in range(100):
        order = turns.order(["busy", "b"], NONE)
        # The other one's only item is being done, for long.
        turns.record_claim("b", without_work=order[: order.index("b")])
    first = _serve(turns, ["busy", "b"], 20)
    assert abs(first["busy"] - first["b"]) <= 2


def test_ties_are_drawn() -> None:
    first = Counter(
        FairQueue(random.Random(seed)).order(["a", "b", "c"], NONE)[0] for seed in range(600)
    )
    assert all(150 < first[tenant] < 250 for tenant in "abc")


def test_an_empty_queue_has_no_next_tenant() -> None:
    assert FairQueue().order([], NONE) == []
