"""Who comes next, and who is turned away."""

import pytest

from dti_engine.errors import ConfigurationError
from services.errors import QueueFullError
from services.inference.scheduler.request import ScheduledRequest
from services.inference.scheduler.request_queue import RequestQueue

from .waiting import ticket

SIZE = (16, 16)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tickets(tenant: str, count: int, **options: object) -> list[ScheduledRequest]:
    return [ticket(tenant=tenant, seed=seed, **options)[0] for seed in range(count)]


def whose(taken: list[ScheduledRequest]) -> str:
    return " ".join(f"{each.tenant}{each.request.seed}" for each in taken)


def test_tenants_take_turns_and_each_is_served_in_order() -> None:
    queue = RequestQueue(20)
    queue.put(tickets("a", 5), 0)
    queue.put(tickets("b", 1), 0)
    queue.put(tickets("c", 2), 0)
    assert whose(queue.take(SIZE, 4)) == "a0 b0 c0 a1"
    queue.put(tickets("b", 1), 0)
    assert whose(queue.take(SIZE, 9)) == "c1 a2 b0 a3 a4"
    assert len(queue) == 0


def test_all_are_taken_in_or_none() -> None:
    queue = RequestQueue(5)
    queue.put(tickets("a", 3), 0)
    with pytest.raises(QueueFullError, match=r"3 images are waiting, of at most 5") as caught:
        queue.put(tickets("b", 3), wait=7.5)
    assert caught.value.seconds == 7.5
    assert len(queue) == 3
    queue.put(tickets("b", 2), 0)


def test_more_than_can_ever_wait_are_refused_for_good() -> None:
    with pytest.raises(ConfigurationError, match="6 images at once, where 5 may wait"):
        RequestQueue(5).put(tickets("a", 6), 0)


def test_only_those_of_a_group_are_taken() -> None:
    queue = RequestQueue(20)
    queue.put(tickets("a", 2), 0)
    queue.put(tickets("a", 1, size=(8, 8)), 0)
    queue.put(tickets("b", 1), 0)
    assert [*queue.groups()] == [(16, 16), (8, 8)]
    assert [*queue.groups(but={(16, 16)})] == [(8, 8)]
    assert whose(queue.take((8, 8), 5)) == "a0"
    assert whose(queue.take(SIZE, 5)) == "b0 a0 a1"


def test_groups_have_their_turn_when_their_tenants_have() -> None:
    queue = RequestQueue(20)
    queue.put(tickets("a", 3, size=(8, 8)), 0)
    queue.put(tickets("a", 1, size=(24, 24)), 0)
    queue.put(tickets("b", 1), 0)
    assert [*queue.groups()] == [(8, 8), (16, 16), (24, 24)]
    queue.take((8, 8), 1)
    assert [*queue.groups()] == [(16, 16), (8, 8), (24, 24)]


def test_each_that_is_alone_is_a_group_of_its_own() -> None:
    queue = RequestQueue(20)
    queue.put(tickets("a", 2, alone=True), 0)
    groups = [*queue.groups()]
    assert len(groups) == 2
    assert whose(queue.take(groups[1], 5)) == "a1"


def test_the_stale_are_taken_out() -> None:
    clock = Clock()
    queue = RequestQueue(20, clock)
    late, left, fine = tickets("a", 3)
    late.deadline, left.gone = 105.0, True
    queue.put([late, left, fine], 0)
    assert queue.sweep() == [left]
    clock.now = 105.0
    assert queue.sweep() == [late]
    assert queue.take(SIZE, 5) == [fine]


def test_patient_ones_let_all_others_go_first() -> None:
    queue = RequestQueue(20)
    queue.put(tickets("a", 3, background=True), 0)
    queue.put(tickets("b", 1, size=(8, 8), background=True), 0)
    queue.put(tickets("c", 2, size=(24, 24)), 0)
    queue.put(tickets("d", 2), 0)
    assert [*queue.groups()] == [(24, 24), (16, 16), (8, 8)]
    assert whose(queue.take(SIZE, 4)) == "d0 d1 a0 a1"


def test_patient_ones_of_many_tenants_take_turns_too() -> None:
    queue = RequestQueue(20)
    queue.put(tickets("a", 3, background=True), 0)
    queue.put(tickets("b", 2, background=True), 0)
    assert whose(queue.take(SIZE, 5)) == "a0 b0 a1 b1 a2"


def test_after_a_minute_a_patient_one_is_like_any_other() -> None:
    clock = Clock()
    queue = RequestQueue(20, clock)
    queue.put(tickets("a", 2, background=True), 0)
    queue.put(tickets("b", 2), 0)
    assert whose(queue.take(SIZE, 1)) == "b0"
    clock.now += 60
    queue.put(tickets("c", 2), 0)
    assert whose(queue.take(SIZE, 3)) == "a0 b1 c0"


def test_some_places_are_kept_from_patient_ones() -> None:
    queue = RequestQueue(8)
    queue.put(tickets("a", 6, background=True), 0)
    with pytest.raises(QueueFullError, match="6 images are waiting, of at most 6"):
        queue.put(tickets("b", 1, background=True), 0)
    queue.put(tickets("b", 2), 0)
    with pytest.raises(QueueFullError, match="8 images are waiting, of at most 8"):
        queue.put(tickets("c", 1), 0)
    with pytest.raises(ConfigurationError, match="7 images at once, where 6 may wait"):
        queue.put(tickets("a", 7, background=True), 0)


def test_where_one_may_wait_a_patient_one_may() -> None:
    RequestQueue(1).put(tickets("a", 1, background=True), 0)
