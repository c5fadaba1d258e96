"""Turns of the supervisor over a real ledger, with workers that are only names."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services import logs
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.models import ServedModel, generation_pool
from services.errors import UnavailableError
from services.ledger.keys import TENANTS_FOLDER
from services.ledger.ledger import Ledger
from services.ledger.queries import list_jobs
from services.ledger.recovery import Recovery
from services.ledger.submissions import cancel, submit
from services.ledger.worker import WorkerSession
from services.metrics import PrometheusMetrics, use
from services.settings import LedgerSettings, SupervisorTimeouts
from services.storage.interface import Page
from services.storage.memory import MemoryStore
from services.supervisor.supervisor import Supervisor
from services.training.pool import ClusterNode, WorkerStatus

MODELS = {"sd": ServedModel(weights="x", recipe="sd", slots=2, max_workers=4)}


class Names:
    """A pool whose workers do nothing."""

    def __init__(self) -> None:
        self.there: dict[str, WorkerStatus] = {}
        self.drained: list[str] = []

    def workers(self) -> Mapping[str, Sequence[WorkerStatus]]:
        return {"sd": list(self.there.values())}

    def nodes(self) -> Sequence[ClusterNode]:
        return [ClusterNode({"CPU": 8.0, "GPU": 8.0})]

    def start(self, pool: str) -> str:
        name = f"{pool}{len(self.there)}"
        self.there[name] = WorkerStatus(name, "running", idle_s=100)
        return name

    def drain(self, name: str) -> None:
        self.drained.append(name)
        del self.there[name]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.open(MemoryStore(), LedgerSettings(lease_s=30, poll_interval_s=0.01))


def request(count: int) -> JobRequest:
    return JobRequest(pool="sd", items=tuple(JobItem(name=str(i)) for i in range(count)))


def test_the_pool_follows_jobs_up_and_down(ledger: Ledger) -> None:
    pool, deliveries = Names(), list[int]()
    supervision = Supervisor(
        ledger,
        MODELS,
        pool,
        deliver=lambda: deliveries.append(1),
        timeouts=SupervisorTimeouts(idle_timeout_s=10),
    )
    supervision.reconcile()
    assert not pool.there
    submit(ledger, "acme", "k", request(5))
    supervision.reconcile()
    assert len(pool.there) == 3
    worker = WorkerSession(ledger, "sd")
    worker.begin()
    for attempt in worker.claim(5):
        attempt.succeed(b"")
    supervision.reconcile()
    assert len(pool.drained) == 3
    assert len(deliveries) == 3


def test_observations_are_published_as_metrics(ledger: Ledger) -> None:
    counted = PrometheusMetrics(process="supervisor")
    use(counted)
    submit(ledger, "acme", "k", request(5))
    submit(ledger, "acme", "l", request(2))
    worker = WorkerSession(ledger, "sd")
    worker.begin()
    worker.claim(1)
    Supervisor(ledger, MODELS, Names()).reconcile()
    text = counted.exposition()[0].decode()
    assert 'dti_items{state="queued"} 6.0' in text
    assert 'dti_items{state="running"} 1.0' in text
    assert 'dti_jobs_open{pool="sd"} 2.0' in text
    assert 'dti_workers_desired{pool="sd"} 4.0' in text


def test_workers_that_die_early_are_counted_as_failed_starts(ledger: Ledger) -> None:
    counted = PrometheusMetrics(process="supervisor")
    use(counted)
    pool = Names()
    supervisor = Supervisor(ledger, MODELS, pool)
    submit(ledger, "acme", "k", request(4))
    supervisor.reconcile()
    assert len(pool.there) == 2
    pool.there.clear()
    supervisor.reconcile()
    text = counted.exposition()[0].decode()
    assert 'dti_worker_start_failures_total{pool="sd"} 2.0' in text


def test_jobs_of_a_model_that_is_not_served_get_a_notice(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = PrometheusMetrics(process="supervisor")
    use(counted)
    logs.configure("supervisor", as_json=True)
    submit(ledger, "acme", "k", JobRequest(pool="gone", items=(JobItem(name="a"),)))
    supervision = Supervisor(ledger, MODELS, Names())
    supervision.reconcile()
    supervision.reconcile()
    assert capsys.readouterr().err.count("jobs wait for a model that is not served") == 1
    assert 'dti_jobs_open{pool="gone"} 1.0' in counted.exposition()[0].decode()
    (job,) = list_jobs(ledger, "acme").jobs
    cancel(ledger, "acme", job.job)
    supervision.reconcile()
    assert 'dti_jobs_open{pool="gone"} 0.0' in counted.exposition()[0].decode()


def test_jobs_of_images_are_seen_and_want_no_workers(ledger: Ledger) -> None:
    counted = PrometheusMetrics(process="supervisor")
    use(counted)
    items = tuple(JobItem(name=str(i)) for i in range(9))
    job_request = JobRequest(kind="generation", pool=generation_pool("sd"), items=items)
    submit(ledger, "acme", "k", job_request)
    pool = Names()
    Supervisor(ledger, MODELS, pool).reconcile()
    assert not pool.there
    text = counted.exposition()[0].decode()
    assert 'dti_jobs_open{pool="generate-sd"} 1.0' in text
    assert 'dti_workers_desired{pool="sd"} 0.0' in text


def test_a_failed_pass_is_followed_by_another(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, stopped = Names(), threading.Event()
    supervision = Supervisor(
        ledger, MODELS, pool, timeouts=SupervisorTimeouts(reconcile_interval_s=0.001)
    )
    submit(ledger, "acme", "k", request(1))
    calls: list[int] = []
    reconcile = supervision.reconcile

    def troubled() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise UnavailableError("the store does not answer")
        reconcile()
        stopped.set()

    monkeypatch.setattr(supervision, "reconcile", troubled)
    supervision.run(stopped)
    assert len(pool.there) == 1


class _SlowSweeps(MemoryStore):
    """A store that lists the folders of tenants, as a sweep does, only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_list, self.is_listing = threading.Event(), threading.Event()

    def list(self, prefix: str = "", **options: Any) -> Page:
        if prefix == TENANTS_FOLDER:
            self.is_listing.set()
            assert self.may_list.wait(30)
        return super().list(prefix, **options)


def test_a_long_sweep_holds_up_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("supervisor", as_json=True)
    store = _SlowSweeps()
    ledger = Ledger.open(store, LedgerSettings(lease_s=30, poll_interval_s=0.01))
    damaged = submit(ledger, "acme", "a", request(1)).job
    store.put(f"t/acme/jobs/{damaged}/spec", b"damaged")
    pool = Names()
    supervisor = Supervisor(
        ledger, MODELS, pool, timeouts=SupervisorTimeouts(sweep_interval_s=0.001)
    )
    supervisor.reconcile()
    assert store.is_listing.wait(30)
    submit(ledger, "acme", "b", request(4))
    supervisor.reconcile()
    supervisor.reconcile()
    assert len(pool.there) == 2
    assert [each.name for each in threading.enumerate()].count("sweep") == 1
    store.may_list.set()
    capsys.readouterr()
    supervisor.wait_for_sweep(30)
    assert damaged in capsys.readouterr().err


def test_a_sweep_that_fails_is_logged_and_the_passes_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("supervisor", as_json=True)
    errors = iter([UnavailableError("the store does not answer"), KeyError("seat")])

    def fail(self: Recovery) -> dict[str, str]:
        raise next(errors)

    monkeypatch.setattr(Recovery, "sweep", fail)
    supervisor = Supervisor(
        ledger, MODELS, Names(), timeouts=SupervisorTimeouts(sweep_interval_s=0.001)
    )
    for _ in range(2):
        supervisor.reconcile()
        supervisor.wait_for_sweep(30)
        time.sleep(0.002)
    assert supervisor.passes == 2
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines if "sweep failed" in line["event"]] == [
        "warning",
        "error",
    ]
