"""Pools follow their backlog."""

import pytest

from services.contracts.models import ServedModel
from services.supervisor.autoscaler import desired_workers, scale
from services.supervisor.fair_share import ShareDecision
from services.training.pool import WorkerStatus


def model(**changes: object) -> ServedModel:
    settings = {"weights": "x", "recipe": "sd", "slots": 4, "max_workers": 3} | changes
    return ServedModel.model_validate(settings)


def busy(name: str) -> WorkerStatus:
    return WorkerStatus(name, "running", open_attempts=2)


def idle(name: str, seconds: float) -> WorkerStatus:
    return WorkerStatus(name, "running", idle_s=seconds)


@pytest.mark.parametrize(
    ("open_items", "workers"), [(0, 0), (1, 1), (4, 1), (5, 2), (12, 3), (10_000, 3)]
)
def test_every_open_item_has_a_slot_within_the_limits(open_items: int, workers: int) -> None:
    assert desired_workers(model(), open_items) == workers
    change = scale(workers, [], idle_timeout_s=60)
    assert (change.desired, change.start, change.drain) == (workers, workers, ())


def test_the_minimum_of_workers_stays() -> None:
    assert desired_workers(model(min_workers=2), 0) == 2


def test_draining_workers_are_not_counted() -> None:
    draining = WorkerStatus("a", "draining", open_attempts=2)
    assert scale(1, [draining], idle_timeout_s=60).start == 1


def test_idle_workers_go_after_a_while_and_busy_ones_never() -> None:
    members = [busy("a"), idle("b", 59), idle("c", 61)]
    assert scale(1, members, idle_timeout_s=60).drain == ("c",)
    assert scale(0, members, idle_timeout_s=10).drain == ("c", "b")
    assert scale(0, [busy("a")], idle_timeout_s=0).drain == ()


def test_those_without_a_place_go_first() -> None:
    loading, waiting = WorkerStatus("b", "pending"), WorkerStatus("d", "pending", placed=False)
    members = [idle("a", 100), loading, waiting, idle("c", 200)]
    assert scale(3, members, idle_timeout_s=60).drain == ("d",)
    assert scale(2, members, idle_timeout_s=60).drain == ("d", "b")


def test_where_others_wait_none_is_kept_idle_and_at_last_none_at_work() -> None:
    members = [busy("a"), busy("b"), idle("c", 1)]
    assert scale(3, members, idle_timeout_s=60, share=ShareDecision(limit=1)).drain == ("c",)
    decision = ShareDecision(limit=1, must_release=True)
    assert scale(3, members, idle_timeout_s=60, share=decision).drain == ("c", "a")
    assert scale(3, members, idle_timeout_s=60, share=ShareDecision(limit=4)).start == 0
