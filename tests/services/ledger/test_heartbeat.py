"""The thread that keeps a lease, with real time and a store in memory."""

import time
from collections.abc import Callable
from traceback import format_exception

import pytest

from services.errors import UnavailableError
from services.ledger.leases import break_lease, read_lease
from services.ledger.ledger import Ledger
from services.ledger.worker import Heartbeat, WorkerSession
from services.settings import LedgerSettings
from services.storage.memory import MemoryStore

_LEASE = 0.4


@pytest.fixture
def worker() -> WorkerSession:
    worker = WorkerSession(
        Ledger.open(MemoryStore(), LedgerSettings(lease_s=_LEASE, poll_interval_s=0.01)), "default"
    )
    worker.begin()
    return worker


def _until(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 10
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    return holds()


def _version(worker: WorkerSession) -> int:
    found = read_lease(worker._ledger, worker.lease.worker)
    return found[1].version if found else 0


def test_it_renews_while_the_process_is_busy(worker: WorkerSession) -> None:
    with Heartbeat(worker):
        assert _until(lambda: _version(worker) >= 4)
    stopped = _version(worker)
    time.sleep(_LEASE)
    assert _version(worker) == stopped


def test_the_heartbeat_continues_after_failures(
    worker: WorkerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, failures = worker.lease.renew, [UnavailableError("not now")] * 3

    def renew_later() -> None:
        if failures:
            raise failures.pop()
        renew()

    monkeypatch.setattr(worker.lease, "renew", renew_later)
    with Heartbeat(worker) as heartbeat:
        assert _until(lambda: heartbeat.last_error is not None)
        assert _until(lambda: heartbeat.last_error is None and _version(worker) >= 2)


def test_it_ends_when_the_lease_was_broken(worker: WorkerSession) -> None:
    found = read_lease(worker._ledger, worker.lease.worker)
    assert found
    assert break_lease(worker._ledger, *found)
    with Heartbeat(worker) as heartbeat:
        assert _until(lambda: worker.lease.lost)
        assert _until(lambda: not heartbeat._thread.is_alive())


def test_a_renewal_that_always_fails_by_a_bug_is_logged_with_its_traceback(
    worker: WorkerSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise KeyError("seat")

    monkeypatch.setattr(worker.lease, "renew", broken)
    with Heartbeat(worker) as heartbeat:
        assert _until(lambda: heartbeat.failures >= 4)
    assert isinstance(heartbeat.last_error, KeyError)
    # Once, as the next line is due a minute later.
    [record] = [line for line in caplog.records if line.message == "heartbeat failed"]
    assert record.levelname == "ERROR"
    assert record.exc_info
    traceback = "".join(format_exception(*record.exc_info))
    assert "in broken" in traceback
    assert "KeyError: 'seat'" in traceback


def test_no_error_ends_it(worker: WorkerSession, monkeypatch: pytest.MonkeyPatch) -> None:
    beat, failures = worker.heartbeat, [RuntimeError("unexpected")]

    def beat_later() -> None:
        if failures:
            raise failures.pop()
        beat()

    monkeypatch.setattr(worker, "heartbeat", beat_later)
    with Heartbeat(worker):
        assert _until(lambda: _version(worker) >= 3)
    assert not failures
