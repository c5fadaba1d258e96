"""Pools follow their backlog."""

import pytest

from services.contracts.models import ServedModel
from services.supervisor.autoscaler import resize, worth
from services.supervisor.fair_share import ShareDecision
from services.training.pool import WorkerStatus


def model(**changes: object) -> ServedModel:
    given = {"weights": "x", "recipe": "sd", "slots": 4, "max_workers": 3} | changes
    return ServedModel.model_validate(given)


def busy(name: str) -> WorkerStatus:
    return WorkerStatus(name, "running", in_hand=2)


def idle(name: str, seconds: float) -> WorkerStatus:
    return WorkerStatus(name, "running", idle=seconds)


@pytest.mark.parametrize(
    ("open_items", "wanted"), [(0, 0), (1, 1), (4, 1), (5, 2), (12, 3), (10_000, 3)]
)
def test_every_open_item_has_a_slot_within_the_limits(open_items: int, wanted: int) -> None:
    assert worth(model(), open_items) == wanted
    change = resize(wanted, [], patience=60)
    assert (change.wanted, change.start, change.drain) == (wanted, wanted, ())


def test_some_stay_where_that_is_asked_for() -> None:
    assert worth(model(min_workers=2), 0) == 2


def test_who_is_drained_counts_no_more() -> None:
    draining = WorkerStatus("a", "draining", in_hand=2)
    assert resize(1, [draining], patience=60).start == 1


def test_idle_workers_go_after_a_while_and_busy_ones_never() -> None:
    members = [busy("a"), idle("b", 59), idle("c", 61)]
    assert resize(1, members, patience=60).drain == ("c",)
    assert resize(0, members, patience=10).drain == ("c", "b")
    assert resize(0, [busy("a")], patience=0).drain == ()


def test_those_without_a_place_go_first() -> None:
    loading, waiting = WorkerStatus("b", "pending"), WorkerStatus("d", "pending", placed=False)
    members = [idle("a", 100), loading, waiting, idle("c", 200)]
    assert resize(3, members, patience=60).drain == ("d",)
    assert resize(2, members, patience=60).drain == ("d", "b")


def test_where_others_wait_none_is_kept_idle_and_at_last_none_at_work() -> None:
    members = [busy("a"), busy("b"), idle("c", 1)]
    assert resize(3, members, patience=60, verdict=ShareDecision(limit=1)).drain == ("c",)
    yields = ShareDecision(limit=1, yields=True)
    assert resize(3, members, patience=60, verdict=yields).drain == ("c", "a")
    assert resize(3, members, patience=60, verdict=ShareDecision(limit=4)).start == 0
