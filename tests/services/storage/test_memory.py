"""The part that only the memory store has: its clock is settable."""

from datetime import UTC, datetime, timedelta

from services.storage.memory import MemoryStore


def test_its_clock_is_the_one_it_was_given() -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = MemoryStore(clock=lambda: clock[0])
    etag = store.create("a", b"")
    clock[0] += timedelta(seconds=90)
    assert store.now() == clock[0]
    assert store.head("a").age == store.list().objects[0].age == timedelta(seconds=90)
    store.replace("a", b"", expected=etag)
    assert store.head("a").age == timedelta(0)
    clock[0] -= timedelta(seconds=5)
    assert store.head("a").age == timedelta(0)
