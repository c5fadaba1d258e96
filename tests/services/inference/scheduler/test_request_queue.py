"""The request queue: turns of tenants, priorities, bounds and deadlines."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from dti_engine.errors import ConfigurationError
from services.errors import QueueFullError
from services.inference.scheduler.request_queue import RequestQueue, ScheduledRequest

from .harness import make_request

SIZE = (16, 16)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def requests(tenant: str, count: int, **options: Any) -> list[ScheduledRequest]:
    return [make_request(tenant=tenant, seed=seed, **options)[0] for seed in range(count)]


def whose(batch: list[ScheduledRequest]) -> str:
    return " ".join(f"{each.tenant}{each.image.seed}" for each in batch)


def test_tenants_take_turns_and_each_is_served_in_order() -> None:
    queue = RequestQueue(20)
    queue.put(requests("a", 5), 0)
    queue.put(requests("b", 1), 0)
    queue.put(requests("c", 2), 0)
    assert whose(queue.take(SIZE, 4)) == "a0 b0 c0 a1"
    queue.put(requests("b", 1), 0)
    assert whose(queue.take(SIZE, 9)) == "c1 b0 a2 a3 a4"
    assert len(queue) == 0


def test_all_requests_of_a_call_are_added_or_none() -> None:
    queue = RequestQueue(8)
    queue.put(requests("a", 4), 0)
    with pytest.raises(QueueFullError, match=r"0 images of this tenant and 4 of all") as caught:
        queue.put(requests("b", 3), retry_after_s=7.5)
    assert caught.value.retry_after_s == 7.5
    assert len(queue) == 4
    queue.put(requests("b", 2), 0)


def test_more_requests_than_ever_fit_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="4 images at once, where 3 of a tenant may wait"):
        RequestQueue(5).put(requests("a", 4), 0)


def test_no_tenant_shuts_out_another_however_often_it_asks() -> None:
    queue = RequestQueue(64)
    admitted = Counter[str]()
    for turn in range(1000):
        for tenant in ["mallory"] * 20 + ["victim"]:
            with suppress(QueueFullError):
                queue.put(requests(tenant, 1), 0)
                admitted[tenant] += 1
        if turn >= 100:  # An engine that generates one image a turn.
            queue.take(SIZE, 1)
    assert admitted["victim"] > 450
    assert queue.shares.held("victim") > 15


def test_removed_requests_give_their_places_back() -> None:
    clock = Clock()
    queue = RequestQueue(8, clock)
    for remove in (
        lambda: queue.take(SIZE, 9),
        queue.drop_expired,
        queue.clear,
    ):
        batch = requests("a", 4)
        queue.put(batch, 0)
        with pytest.raises(QueueFullError):
            queue.put(requests("a", 1), 0)
        for each in batch:
            each.cancelled = True
        assert len(remove()) == 4
        assert queue.shares.used == 0


def test_turns_go_by_cost() -> None:
    queue = RequestQueue(40)
    queue.put(requests("a", 10, size=SIZE, steps=10), 0)
    queue.put(requests("b", 5, size=SIZE, steps=40), 0)
    order = whose(queue.take(SIZE, 10))
    assert order == "a0 b0 a1 a2 a3 b1 a4 a5 a6 a7"
    # A tenant that comes later does not catch up on what the others had before.
    queue.put(requests("c", 10, size=SIZE, steps=10), 0)
    assert whose(queue.take(SIZE, 5)).count("c") <= 3


def test_only_requests_of_the_given_key_are_taken() -> None:
    queue = RequestQueue(20)
    queue.put(requests("a", 2), 0)
    queue.put(requests("a", 1, size=(8, 8)), 0)
    queue.put(requests("b", 1), 0)
    assert [*queue.batch_keys()] == [(16, 16), (8, 8)]
    assert [*queue.batch_keys(exclude={(16, 16)})] == [(8, 8)]
    assert whose(queue.take((8, 8), 5)) == "a0"
    assert whose(queue.take(SIZE, 5)) == "b0 a0 a1"


def test_batch_keys_follow_the_turns_of_tenants() -> None:
    queue = RequestQueue(20)
    queue.put(requests("a", 3, size=(8, 8)), 0)
    queue.put(requests("a", 1, size=(24, 24)), 0)
    queue.put(requests("b", 1), 0)
    assert [*queue.batch_keys()] == [(8, 8), (16, 16), (24, 24)]
    queue.take((8, 8), 1)
    assert [*queue.batch_keys()] == [(16, 16), (8, 8), (24, 24)]


def test_each_isolated_request_has_a_key_of_its_own() -> None:
    queue = RequestQueue(20)
    queue.put(requests("a", 2, isolated=True), 0)
    keys = [*queue.batch_keys()]
    assert len(keys) == 2
    assert whose(queue.take(keys[1], 5)) == "a1"


def test_expired_requests_are_dropped() -> None:
    clock = Clock()
    queue = RequestQueue(20, clock)
    late, left, fine = requests("a", 3)
    late.deadline, left.cancelled = 105.0, True
    queue.put([late, left, fine], 0)
    assert queue.drop_expired() == [left]
    clock.now = 105.0
    assert queue.drop_expired() == [late]
    assert queue.take(SIZE, 5) == [fine]


def test_background_requests_let_all_others_go_first() -> None:
    queue = RequestQueue(20)
    queue.put(requests("a", 3, background=True), 0)
    queue.put(requests("b", 1, size=(8, 8), background=True), 0)
    queue.put(requests("c", 2, size=(24, 24)), 0)
    queue.put(requests("d", 2), 0)
    assert [*queue.batch_keys()] == [(24, 24), (16, 16), (8, 8)]
    assert whose(queue.take(SIZE, 4)) == "d0 d1 a0 a1"


def test_tenants_with_background_requests_take_turns() -> None:
    queue = RequestQueue(20)
    queue.put(requests("a", 3, background=True), 0)
    queue.put(requests("b", 2, background=True), 0)
    assert whose(queue.take(SIZE, 5)) == "a0 b0 a1 b1 a2"


def test_a_background_request_is_deferred_for_a_minute_at_most() -> None:
    clock = Clock()
    queue = RequestQueue(20, clock)
    queue.put(requests("a", 2, background=True), 0)
    queue.put(requests("b", 2), 0)
    assert whose(queue.take(SIZE, 1)) == "b0"
    clock.now += 60
    queue.put(requests("c", 2), 0)
    assert whose(queue.take(SIZE, 3)) == "a0 c0 b1"


def test_a_part_of_the_queue_is_closed_to_background_requests() -> None:
    queue = RequestQueue(8)
    for tenant, count in (("a", 3), ("b", 2), ("c", 1)):
        queue.put(requests(tenant, count, background=True), 0)
    with pytest.raises(QueueFullError, match=r"0 images of this tenant and 6 of all .* at most 6"):
        queue.put(requests("d", 1, background=True), 0)
    queue.put(requests("d", 1), 0)
    queue.put(requests("e", 1), 0)
    with pytest.raises(QueueFullError, match="8 of all tenants are waiting, of at most 8"):
        queue.put(requests("f", 1), 0)
    with pytest.raises(ConfigurationError, match="4 images at once, where 3 of a tenant may wait"):
        queue.put(requests("a", 4, background=True), 0)


def test_a_queue_of_one_accepts_a_background_request() -> None:
    RequestQueue(1).put(requests("a", 1, background=True), 0)
