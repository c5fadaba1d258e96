"""The gate before a store and its monitor: when it shuts, when it opens, and what a call costs."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.errors import AccessDeniedError, StoreRefusedError, UnavailableError
from services.storage import gate as gates
from services.storage import monitor as monitors
from services.storage.gate import StoreGate
from services.storage.instrumented import InstrumentedStore
from services.storage.interface import Head
from services.storage.memory import MemoryStore
from services.storage.monitor import StoreMonitor

Eventually = Callable[[Callable[[], object]], None]


class Moody(MemoryStore):
    """A store that fails or stays silent, as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.heads = 0

    def head(self, key: str) -> Head:
        self.heads += 1
        self.answers.wait(20)
        if self.error:
            raise self.error
        return super().head(key)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Moody:
    monkeypatch.setattr(gates, "_PING_LIMIT_S", 0.05)
    monkeypatch.setattr(monitors, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(monitors, "_MIN_PAUSE_S", 0.001)
    return Moody()


@pytest.fixture
def gate() -> StoreGate:
    return StoreGate(is_shut=True)


@pytest.fixture
def monitor(store: Moody, gate: StoreGate) -> Iterator[StoreMonitor]:
    monitor = StoreMonitor(store, gate)
    yield monitor
    monitor.stop()


def test_the_gate_opens_with_the_probe(store: Moody, gate: StoreGate, monitor: Any) -> None:
    gated = InstrumentedStore(store, gate)
    for call in (gated.list, gated.now, gated.for_leases().list):
        with pytest.raises(UnavailableError, match="nothing was sent"):
            call()
    monitor.start()
    assert monitor.wait_until_probed(20)
    gated.put("a", b"1")
    assert gated.for_leases().read("a").body == b"1"


def test_a_silent_store_shuts_the_gate_until_it_answers(
    store: Moody, gate: StoreGate, monitor: Any, eventually: Eventually
) -> None:
    monitor.start()
    assert monitor.wait_until_probed(20)
    store.answers.clear()
    eventually(lambda: gate.is_shut)
    calls = store.heads
    for _ in range(100):
        with pytest.raises(UnavailableError):
            InstrumentedStore(store, gate).head("a")
    assert store.heads == calls  # one ping waits, and no call was sent
    store.answers.set()
    eventually(lambda: not gate.is_shut)


def test_a_store_that_fails_shuts_the_gate_until_it_answers(
    store: Moody, gate: StoreGate, monitor: Any, eventually: Eventually
) -> None:
    monitor.start()
    assert monitor.wait_until_probed(20)
    store.error = UnavailableError("refused")
    eventually(lambda: gate.is_shut)
    store.error = AccessDeniedError("a store that answers no does answer")
    eventually(lambda: not gate.is_shut)


def test_one_call_that_fails_shuts_nothing_and_raises_a_doubt() -> None:
    class Slow(MemoryStore):
        def list(self, *args: Any, **options: Any) -> Any:
            raise UnavailableError("this listing takes too long")

    gate = StoreGate()
    with pytest.raises(UnavailableError):
        InstrumentedStore(Slow(), gate).list()
    assert not gate.is_shut
    assert gate.wait_for_doubt(20)


def test_a_failed_call_has_the_store_pinged_at_once(
    store: Moody, gate: StoreGate, monitor: Any, monkeypatch: Any, eventually: Eventually
) -> None:
    monkeypatch.setattr(monitors, "_INTERVAL_S", 1000)
    monitor.start()
    assert monitor.wait_until_probed(20)
    store.error = UnavailableError("refused")
    with pytest.raises(UnavailableError, match="refused"):
        InstrumentedStore(store, gate).head("a")
    eventually(lambda: gate.is_shut)


def test_a_refused_store_is_told_once_and_never_opened(
    gate: StoreGate, eventually: Eventually
) -> None:
    class Careless(Moody):
        def create(self, key: str, body: bytes) -> str:
            return self.put(key, body)

    told: list[str] = []
    monitor = StoreMonitor(Careless(), gate)
    monitor.call_when_refused(lambda: told.append("told"))
    monitor.start()
    with pytest.raises(StoreRefusedError, match="ignores If-None-Match"):
        monitor.wait_until_probed(20)
    eventually(lambda: told)
    assert gate.is_shut
    monitor.call_when_refused(lambda: told.append("late"))
    assert told == ["told", "late"]


def test_the_monitor_probes_again_until_the_store_answers(store: Moody, gate: StoreGate) -> None:
    left = [UnavailableError("down"), RuntimeError("a bug"), UnavailableError("down")]

    class Down(Moody):
        def read(self, *args: Any, **options: Any) -> Any:
            if left:
                raise left.pop()
            return super().read(*args, **options)

    monitor = StoreMonitor(Down(), gate)
    monitor.start()
    assert monitor.wait_until_probed(20)
    monitor.stop()
    assert not left
