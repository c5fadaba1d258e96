"""Each fault does what it says."""

import random
from collections.abc import Callable
from dataclasses import fields

import pytest

from chaos.simulation.bucket import Bucket
from chaos.simulation.nemesis import Faults
from chaos.simulation.network import Network
from chaos.simulation.process import Killed, Process
from chaos.simulation.store_client import simulated_store
from chaos.simulation.world import World
from services.errors import (
    AlreadyExistsError,
    NotFoundError,
    OutcomeUnknownError,
    StorageError,
    UnavailableError,
)
from services.storage.s3 import S3Store

OpenStore = Callable[..., tuple[Process, S3Store]]


def _create(world: World, opened: tuple[Process, S3Store]) -> type[BaseException] | None:
    """Create "a", and return the type of the error."""
    process, store = opened
    try:
        world.perform(process, lambda: store.create("a", b"mine"))
    except (StorageError, Killed) as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        ("unsent", UnavailableError, 0),
        ("lost_request", OutcomeUnknownError, 0),
        ("lost_answer", OutcomeUnknownError, 1),
        ("late", OutcomeUnknownError, 1),
        ("error_before", OutcomeUnknownError, 0),
        ("error_after", OutcomeUnknownError, 1),
        ("unavailable", OutcomeUnknownError, 0),
        ("conflict", UnavailableError, 0),
        ("slow_listing", None, 1),
        ("pause", None, 1),
    ],
)
def test_a_write_has_a_fault(
    world: World,
    bucket: Bucket,
    open_store: OpenStore,
    fault: str,
    error: type[BaseException] | None,
    applied: int,
) -> None:
    opened = open_store(attempts=1, **{fault: 1.0})
    begun = world.now
    assert _create(world, opened) is error
    ended = world.now
    world.run()
    assert len(bucket.journal) == applied
    if fault == "late":
        assert ended < bucket.journal[0].time <= ended + 60
    if fault == "pause":
        assert ended - begun > 1


def test_a_slow_request_is_answered_late_or_times_out(
    world: World, bucket: Bucket, open_store: OpenStore
) -> None:
    process, store = open_store(attempts=1, slow=1.0)
    delays: dict[bool, list[float]] = {True: [], False: []}
    for number in range(30):
        begun = world.now
        try:
            world.perform(process, lambda number=number: store.put(f"{number}", b""))
            delays[True].append(world.now - begun)
        except OutcomeUnknownError:
            delays[False].append(world.now - begun)
    world.run()
    assert 1 < min(delays[True]) < max(delays[True]) < 20.1
    assert delays[False] == pytest.approx([20.0] * len(delays[False]), abs=0.1)
    assert len(bucket.journal) == 30


def test_a_request_delivered_twice_meets_its_own_write(
    world: World, bucket: Bucket, open_store: OpenStore
) -> None:
    assert _create(world, open_store(twice=1.0)) is None
    assert ("refused", (0, 412)) in [entry[2:] for entry in world.entries]
    assert len(bucket.journal) == 1


@pytest.mark.parametrize("fault", ["unsent", "lost_answer", "error_before", "unavailable"])
def test_a_read_has_a_fault(world: World, open_store: OpenStore, fault: str) -> None:
    process, store = open_store(attempts=2, **{fault: 1.0})
    with pytest.raises(UnavailableError) as caught:
        world.perform(process, lambda: store.read("a"))
    assert type(caught.value) is UnavailableError
    process, store = open_store(attempts=20, **{fault: 0.5})
    with pytest.raises(NotFoundError):
        world.perform(process, lambda: store.read("a"))


def test_a_slow_listing_shows_one_instant(
    world: World, bucket: Bucket, open_store: OpenStore
) -> None:
    writing, writer = open_store()
    listing, lister = open_store(attempts=20, slow_listing=1.0)

    def write() -> None:
        for number in range(300):
            writer.create(f"{number:03d}", b"")
            world.sleep(1.0)

    writing.spawn(write)
    missed: list[int] = []
    for _ in range(10):
        page = world.perform(listing, lister.list)
        written = [change.key for change in bucket.journal]
        assert [head.key for head in page.objects] == written[: len(page.objects)]
        missed.append(len(written) - len(page.objects))
    assert min(missed) == 0
    assert max(missed) > 1


def test_requests_of_a_crashed_process_are_applied_or_dropped_or_late() -> None:
    became: set[str] = set()
    for seed in range(60):
        with World(seed) as world:
            bucket = Bucket(world)
            process = world.process("a")
            store = simulated_store(process, Network(bucket, Faults(crash=1.0)))
            assert _create(world, (process, store)) is Killed
            crashed = world.now
            world.run()
            applied = [change.time for change in bucket.journal]
            if not applied:
                became.add("dropped" if "dropped" in world.schedule() else "never sent")
            elif applied[0] <= crashed:
                became.add("before")
            else:
                assert applied[0] < crashed + 61
                became.add("at once" if applied[0] < crashed + 1 else "late")
    assert became == {"never sent", "dropped", "before", "at once", "late"}


def test_a_request_of_a_paused_process_is_served_meanwhile(
    world: World, bucket: Bucket, open_store: OpenStore
) -> None:
    process, store = open_store()
    process.spawn(lambda: store.create("a", b"mine"))
    world.run(done=lambda: "send" in world.schedule())
    world.pause(process, 100.0)
    world.run()
    assert bucket.journal[0].time < 1
    assert world.now == pytest.approx(100.0, abs=1)


def test_faults_end_at_their_time(world: World, open_store: OpenStore) -> None:
    opened = open_store(attempts=1, conflict=1.0, until=100.0)
    assert _create(world, opened) is UnavailableError
    world.run(until=100.0)
    assert _create(world, opened) is None
    assert _create(world, opened) is None  # its own bytes again
    world.perform(opened[0], lambda: opened[1].put("a", b"theirs"))
    assert _create(world, opened) is AlreadyExistsError


def test_drawn_mixes_differ_in_kind() -> None:
    mixes = [Faults.drawn(random.Random(seed), until=5.0) for seed in range(200)]
    for field in fields(Faults):
        rates = [getattr(mix, field.name) for mix in mixes]
        if field.name == "until":
            assert set(rates) == {5.0}
        else:
            assert 20 < rates.count(0.0) < 180, field.name
    shares = [mix.table("conditional write") for mix in mixes]
    assert all(not table or 0 < table[-1][0] < 0.501 for table in shares)
    assert any(not table for table in shares)
    assert any(table and table[-1][0] > 0.4 for table in shares)
