"""The record of a probe: when a process believes it, and that every process reads it at start."""

import threading
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest

from services import logs, metrics
from services.contracts.models import MINIATURE
from services.errors import StoreFullError, StoreRefusedError, UnavailableError
from services.inference.factory import open_engine
from services.inference.spec import EngineSpec
from services.settings import WorkerProcessSettings
from services.storage import probe_record
from services.storage.interface import Retention
from services.storage.memory import MemoryStore
from services.storage.probe_record import KEY, ensure_probed, find_record, wait_until_probed
from services.training.factory import open_worker
from services.training.pool import WorkerSpec


class Clocked(MemoryStore):
    """A store that counts its creations, and whose clock and retention a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.kept = Retention("off", object_lock=False)
        self.creations = 0
        super().__init__(lambda: self.time)

    def create(self, key: str, body: bytes) -> str:
        self.creations += 1
        return super().create(key, body)

    def retention(self) -> Retention:
        return self.kept


class Careless(Clocked):
    def create(self, key: str, body: bytes) -> str:
        return self.put(key, body)


def test_a_store_is_probed_once_for_all_processes() -> None:
    store = Clocked()
    first = ensure_probed(store)
    creations = store.creations
    assert creations > 0
    assert ensure_probed(store) == first
    assert store.creations == creations
    assert [head.key for head in store.list().objects] == [KEY]


def test_a_record_is_believed_for_a_week() -> None:
    store = Clocked()
    ensure_probed(store)
    store.time += timedelta(days=7)
    assert find_record(store)
    store.time += timedelta(seconds=1)
    assert find_record(store) is None


def test_a_record_of_another_version_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Clocked()
    ensure_probed(store)
    monkeypatch.setattr(probe_record, "__version__", "99.0")
    assert find_record(store) is None
    record = ensure_probed(store)
    assert record
    assert record.version == "99.0"


def test_a_copied_record_is_not_believed() -> None:
    store, copy = Clocked(), Clocked()
    ensure_probed(store)
    copy.time += timedelta(hours=1)
    copy.put(KEY, store.read(KEY).body)
    assert find_record(copy) is None


def test_a_record_is_not_believed_once_versioning_is_switched_on() -> None:
    store = Clocked()
    ensure_probed(store)
    store.kept = Retention("enabled", object_lock=False)
    assert find_record(store) is None
    record = ensure_probed(store)
    assert record
    assert record.findings.retention.versioning == "enabled"


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", b"[1]", b'{"version": 1}'])
def test_a_damaged_record_is_replaced(body: bytes) -> None:
    store = Clocked()
    store.put(KEY, body)
    ensure_probed(store)
    assert find_record(store)


def test_a_full_store_can_be_used_without_a_record() -> None:
    class Full(Clocked):
        def create(self, key: str, body: bytes) -> str:
            raise StoreFullError("no space left")

    store = Full()
    assert ensure_probed(store) is None
    assert store.list().objects == ()
    assert wait_until_probed(store, threading.Event())


def test_a_refused_store_loses_its_record() -> None:
    store = Careless()
    good = Clocked()
    ensure_probed(good)
    store.put(KEY, good.read(KEY).body)
    store.kept = Retention("enabled", object_lock=False)
    with pytest.raises(StoreRefusedError):
        ensure_probed(store)
    assert store.list().objects == ()


def test_a_process_waits_for_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_record, "_RETRY_S", 0.001)
    left = [1, 2, 3]

    class Down(Clocked):
        def read(self, key: str, **how: Any) -> Any:
            if left:
                raise UnavailableError("down")
            return super().read(key, **how)

    assert wait_until_probed(Down(), threading.Event(), left.pop)
    stopped = threading.Event()
    left.append(1)
    assert not wait_until_probed(Down(), stopped, stopped.set)


def _nothing(*given: object) -> None:
    """Stand in for what would change the process of the tests."""


def _careless(url: str, **defaults: float) -> Careless:
    return Careless()


_PROCESSES = {
    "services.api.__main__": [],
    "services.dispatch.__main__": ["--engines-url=http://127.0.0.1:1/engines"],
    "services.supervisor.__main__": [],
}


@pytest.mark.parametrize("module", _PROCESSES)
def test_a_process_ends_with_2_on_a_store_that_is_refused(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = import_module(module)
    for place, name in ((logs, "configure"), (metrics, "use"), (process, "on_termination")):
        monkeypatch.setattr(place, name, _nothing, raising=False)
    monkeypatch.setattr(process, "open_store", _careless)
    monkeypatch.setattr("sys.argv", ["x", "--store=s3://bucket/x", *_PROCESSES[module]])
    monkeypatch.setenv("DTI_ENGINE_SECRET", "hush")
    with pytest.raises(SystemExit) as caught:
        process.main()
    assert caught.value.code == 2
    assert "ignores If-None-Match" in capsys.readouterr().err


def test_workers_and_engines_refuse_a_store_before_they_load_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in ("services.training.factory", "services.inference.factory"):
        monkeypatch.setattr(f"{place}.open_store", _careless)
        monkeypatch.setattr(f"{place}.load_backbone", None)
    (name, model), *_ = MINIATURE.items()
    with pytest.raises(StoreRefusedError):
        open_worker(WorkerSpec.of(WorkerProcessSettings(store="memory:"), name, model))
    with pytest.raises(StoreRefusedError):
        open_engine(EngineSpec(store="memory:", name=name, model=model.for_engine(), threads=None))
