"""Ids sort by time, and keys by number."""

import random

import pytest

from services.errors import InvalidIdError
from services.ledger.ids import (
    Ids,
    check_job_id,
    check_tenant_name,
    parse_token_id,
    reverse_time_order,
    token_id,
)
from services.ledger.keys import ItemBlock, ItemRef, JobKeys, parse_item_ref, queue_entry_key

TIMES = (0.0, 0.001, 1.0, 1_700_000_000.0, 1_700_000_000.001, 2_000_000_000.0, 30_000_000_000.0)


def _job(seconds: float) -> str:
    return Ids(lambda: seconds).job()


def test_the_ids_of_later_jobs_sort_first() -> None:
    jobs = [_job(seconds) for seconds in TIMES]
    assert sorted(jobs) == jobs[::-1]
    assert len(set(jobs)) == len(jobs)


def test_the_hints_of_earlier_jobs_sort_first() -> None:
    jobs = [_job(seconds) for seconds in TIMES]
    assert sorted(queue_entry_key("p", "t", job) for job in jobs) == [
        queue_entry_key("p", "t", job) for job in jobs
    ]
    for job in jobs:
        assert reverse_time_order(job) != job
        assert reverse_time_order(reverse_time_order(job)) == job


def test_ids_of_one_millisecond_differ() -> None:
    ids = Ids(lambda: 5.0)
    assert len({ids.job() for _ in range(1000)}) == 1000
    assert len({ids.worker() for _ in range(1000)} | {ids.nonce() for _ in range(1000)}) == 2000


def test_a_token_says_where_it_lies() -> None:
    rng = random.Random(0)
    for _ in range(100):
        place = (_job(rng.uniform(0, 2e9)), rng.randrange(100), rng.randrange(10_000))
        assert parse_token_id(token_id(*place)) == place


_A_JOB = "zzzzzzzz0qya3mp46xr5vbskpp"


@pytest.mark.parametrize(
    "token", ["", "tok_", "x" * 37, f"tok_{_A_JOB}000000", f"tok_{_A_JOB}000000x", "tok_../../a"]
)
def test_an_invalid_token_id_is_refused(token: str) -> None:
    with pytest.raises(InvalidIdError, match="is not a token's id: tok_ and 33 digits"):
        parse_token_id(token)


@pytest.mark.parametrize("job", ["", _A_JOB[:-1], _A_JOB + "0", _A_JOB[:-1] + "i", "A" * 26])
def test_an_invalid_job_id_is_refused(job: str) -> None:
    with pytest.raises(InvalidIdError, match="which has 26 digits and letters"):
        check_job_id(job)
    with pytest.raises(InvalidIdError):
        JobKeys("acme", job)


@pytest.mark.parametrize("tenant", ["", "-a", "A", "a/b", "..", "a" * 64, "a\n", "ä"])
def test_an_invalid_tenant_id_is_refused(tenant: str) -> None:
    with pytest.raises(InvalidIdError, match="1 to 63 of a-z"):
        check_tenant_name(tenant)
    with pytest.raises(InvalidIdError):
        JobKeys(tenant, _job(1))


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidIdError) as caught:
        check_tenant_name("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_keys_are_in_the_order_of_rounds_items_and_attempts() -> None:
    keys = JobKeys("acme", _job(1))
    places = [ItemRef(round_, index) for round_ in (0, 1, 9, 10, 99) for index in (0, 9, 10, 9999)]
    attempts = [
        key
        for place in places
        for number in (1, 2, 9, 10, 99)
        for key in (keys.attempt(place, number), keys.attempt_end(place, number))
    ]
    assert sorted(attempts) == attempts
    assert sorted(map(keys.result, places)) == [keys.result(place) for place in places]
    rounds = [keys.retry(round_) for round_ in range(1, 100)]
    assert sorted(rounds) == rounds


def test_a_key_is_parsed_back() -> None:
    keys, place = JobKeys("acme", _job(1)), ItemRef(3, 4567)
    assert parse_item_ref(keys.result(place).removeprefix(keys.results)) == (place, [])
    name = keys.attempt_end(place, 8).removeprefix(keys.attempts)
    assert parse_item_ref(name) == (place, ["08", "ended"])


def test_a_block_is_the_prefix_of_its_items_and_of_no_others() -> None:
    for index in (0, 1, 999, 1000, 1001, 9999):
        place = ItemRef(12, index)
        assert place.block == ItemBlock(12, index // 1000)
        others = [ItemBlock(12, number) for number in range(10)] + [
            ItemBlock(1, 0),
            ItemBlock(2, 0),
        ]
        assert [b for b in others if str(place).startswith(str(b))] == [place.block]
