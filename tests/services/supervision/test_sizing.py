"""Pools follow their backlog."""

import pytest

from services.offers import Offer
from services.supervision.backoff import Backoff
from services.supervision.sizing import resize
from services.training.members import Member


def offer(**changes: object) -> Offer:
    given = {"weights": "x", "recipe": "sd", "slots": 4, "max_workers": 3} | changes
    return Offer.model_validate(given)


def busy(name: str) -> Member:
    return Member(name, "running", in_hand=2)


def idle(name: str, seconds: float) -> Member:
    return Member(name, "running", idle=seconds)


@pytest.mark.parametrize(
    ("open_items", "wanted"), [(0, 0), (1, 1), (4, 1), (5, 2), (12, 3), (10_000, 3)]
)
def test_every_open_item_has_a_slot_within_the_limits(open_items: int, wanted: int) -> None:
    change = resize(offer(), open_items, [], patience=60)
    assert (change.wanted, change.start, change.drain) == (wanted, wanted, ())


def test_some_stay_where_that_is_asked_for() -> None:
    assert resize(offer(min_workers=2), 0, [idle("a", 1e6)], patience=60).start == 1


def test_who_is_drained_counts_no_more() -> None:
    draining = Member("a", "draining", in_hand=2)
    assert resize(offer(), 4, [draining], patience=60).start == 1


def test_idle_workers_go_after_a_while_and_busy_ones_never() -> None:
    members = [busy("a"), idle("b", 59), idle("c", 61)]
    assert resize(offer(), 1, members, patience=60).drain == ("c",)
    assert resize(offer(), 0, members, patience=10).drain == ("c", "b")
    assert resize(offer(), 0, [busy("a")], patience=0).drain == ()


def test_those_without_a_place_go_first() -> None:
    members = [idle("a", 100), Member("b", "pending"), idle("c", 200)]
    assert resize(offer(), 5, members, patience=60).drain == ("b",)


def test_workers_that_die_young_are_started_ever_more_slowly() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    waits: list[float] = []
    for life in range(6):
        assert backoff.allows
        backoff.see({f"w{life}"})
        now += 1
        backoff.see(set())
        began = now
        while not backoff.allows:
            now += 1
        waits.append(now - began)
    assert waits == sorted(waits)
    assert waits[0] >= 5
    assert waits[-1] == 300
    # One that lives ends that.
    backoff.see({"good"})
    now += 31
    backoff.see({"good"})
    backoff.see(set())
    assert backoff.allows


def test_those_that_were_drained_have_not_died_young() -> None:
    now = 0.0
    backoff = Backoff(lambda: now)
    backoff.see({"a"})
    backoff.left("a")
    backoff.see({"a"})
    now += 1
    backoff.see(set())
    assert backoff.allows
