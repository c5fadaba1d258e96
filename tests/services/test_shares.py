"""Shares of what is scarce: nobody takes everything, and everything is given back."""

import asyncio
import random
import threading

import pytest

from services.errors import QuotaError
from services.shares import FairSemaphore, Shares


def take_all(shares: Shares, owner: str) -> int:
    """Reserve as much as the owner can get, one by one, and return how much it was."""
    count = 0
    while shares.take(owner, 1):
        count += 1
    return count


@pytest.mark.parametrize("capacity", [2, 3, 8, 64, 1000])
def test_one_owner_never_takes_everything(capacity: int) -> None:
    shares = Shares("places", capacity)
    assert take_all(shares, "a") == shares.largest == (capacity + 1) // 2
    assert take_all(shares, "b") >= 1
    assert shares.used <= capacity


def test_a_single_place_can_be_taken() -> None:
    shares = Shares("places", 1)
    with shares.reserve("a"), pytest.raises(QuotaError):
        shares.reserve("b")
    shares.reserve("b")


def test_an_amount_is_reserved_as_if_one_by_one() -> None:
    for capacity in range(1, 40):
        one_by_one = take_all(Shares("places", capacity), "a")
        shares = Shares("places", capacity)
        assert not shares.take("a", one_by_one + 1)
        assert shares.take("a", one_by_one)


def test_owners_that_give_back_what_they_are_done_with_come_to_equal_shares() -> None:
    shares, rng = Shares("places", 90), random.Random(1)
    assert take_all(shares, "a") == 45
    held = {"a": 45, "b": 0}
    for _ in range(5000):
        owner = rng.choice("aaaaab")  # One asks five times as often.
        held[owner] += shares.take(owner, 1)
        done = rng.choice(["a"] * held["a"] + ["b"] * held["b"])
        shares.give_back(done, 1)
        held[done] -= 1
        for _ in range(2):
            held["a"] += shares.take("a", 1)
            held["b"] += shares.take("b", 1)
    assert abs(held["a"] - held["b"]) <= 6


def test_a_refusal_says_what_is_held() -> None:
    shares = Shares("uploads", 8, max_per_owner=2)
    first, second = shares.reserve("a"), shares.reserve("a")
    with pytest.raises(QuotaError, match=r"1 more uploads .* this caller has 2 and all .* 2 of 8"):
        shares.reserve("a")
    first.release()
    first.release()
    second.release()
    assert (shares.used, shares.held("a")) == (0, 0)


def test_a_reservation_that_cannot_be_extended_keeps_what_it_has() -> None:
    shares = Shares("bytes", 100)
    with shares.reserve("a", 40) as reservation:
        with pytest.raises(QuotaError):
            reservation.extend(40)
        reservation.extend(10)
        assert shares.held("a") == 50
    assert shares.used == 0


def test_many_threads_never_take_more_than_there_is() -> None:
    shares, most = Shares("places", 10), [0]

    def work(owner: str) -> None:
        for _ in range(300):
            if shares.take(owner, 1):
                most[0] = max(most[0], shares.used)
                shares.give_back(owner, 1)

    threads = [threading.Thread(target=work, args=(f"t{n % 3}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 10
    assert shares.used == 0


def test_owners_of_a_semaphore_take_turns() -> None:
    order: list[str] = []

    async def work(semaphore: FairSemaphore, owner: str) -> None:
        async with semaphore.hold(owner):
            order.append(owner)
            await asyncio.sleep(0)

    async def run() -> None:
        semaphore = FairSemaphore("threads", 4)
        tasks = [asyncio.create_task(work(semaphore, "a")) for _ in range(50)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(work(semaphore, "b")))
        await asyncio.gather(*tasks)
        assert semaphore.shares.used == 0

    asyncio.run(run())
    assert order.count("a") == 50
    assert order.index("b") <= 4


def test_waiters_of_a_semaphore_that_are_cancelled_leave_no_trace() -> None:
    async def work(semaphore: FairSemaphore, owner: str, rng: random.Random) -> None:
        amount = await semaphore.acquire(owner, rng.randrange(1, 4))
        assert amount <= semaphore.shares.largest == 2
        try:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        finally:
            semaphore.release(owner, amount)

    async def run(seed: int) -> None:
        rng, semaphore = random.Random(seed), FairSemaphore("threads", 4)
        tasks = [asyncio.create_task(work(semaphore, rng.choice("abc"), rng)) for _ in range(30)]
        for _ in range(20):
            rng.choice(tasks).cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert semaphore.shares.used == 0
        assert not semaphore._waiting

    for seed in range(50):
        asyncio.run(run(seed))
