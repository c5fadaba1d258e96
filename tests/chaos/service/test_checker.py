"""The checks of the service find nothing in a good history, and each detects its tampering."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chaos.checker import violations
from chaos.checker.operations import key_made_two_jobs, operation_answered_wrongly
from chaos.checker.results import result_changed
from chaos.checker.states import process_failed, unfinished_items, views_differ
from chaos.config import RoundConfig
from chaos.history import Check, History, HistoryEvent, HistoryLog, digest
from chaos.service.checker import (
    CHECKS,
    download_differs,
    fault_missed,
    item_not_succeeded_once,
    recovery_late,
    token_worse,
)
from chaos.service.nemesis import KINDS, draw_faults
from chaos.service.observer import StoreObserver
from chaos.service.recovery import measure_recovery
from chaos.service.tokens import angle_degrees
from chaos.tampering import append, change, completion, insert, put, remove
from dti_engine.text.tokens import LearnedToken
from services.contracts.jobs import JobItem, JobRequest
from services.ledger.item_results import end_attempt
from services.ledger.keys import ItemRef
from services.ledger.ledger import Ledger
from services.ledger.records import ResultRecord, pack
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.storage.memory import MemoryStore

Tampering = Callable[[History], History]
_STEPS = 8


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Let a worker be hit with two running items, which another claims and completes."""
    config = RoundConfig(
        "memory:", "scene", tenant="t", pool="p", lease_s=60, poll_interval_s=0.001
    )
    ledger = Ledger.open(MemoryStore(), config.settings)
    log, client = HistoryLog(tmp_path, "round"), HistoryLog(tmp_path, "client-0")
    observer = StoreObserver(ledger, config.tenant, HistoryLog(tmp_path, "observer"))
    log.append("round_started", kinds=["worker"], steps=_STEPS, recovery_margin_s=10)
    request = JobRequest(pool="p", items=(JobItem(name="a", work={}), JobItem(name="b", work={})))
    client.append("invoked", n=0, op="submit", key="k")
    job = submit(ledger, config.tenant, "k", request).job
    client.append("completed", n=0, job=job, created=True)
    first = _worker(ledger)
    lost = first.claim(2)
    observer.observe()
    log.append("targets_chosen", workers=[1, 2], left=[2])
    log.append("fault", kind="worker", pids=[1], workers=[first.lease.worker])
    client.append("invoked", n=1, op="again", key="k")
    client.append("completed", n=1, job=job, created=False)
    for attempt in lost:
        end_attempt(ledger, attempt.keys, attempt.item_ref, attempt.number, "lost", "it was killed")
    second = _worker(ledger)
    observer.observe()
    for attempt in second.claim(2):
        observer.observe()
        attempt.succeed(attempt.item.name.encode(), {"steps": _STEPS})
        log.append(
            "downloaded",
            job=job,
            index=attempt.item_ref.index,
            state="succeeded",
            error="",
            sha256=digest(attempt.item.name.encode()),
            steps=_STEPS,
            resumed_at=3,
            angle=0.1,
            seed_angle=5.0,
        )
    observer.observe()
    recovery = Recovery(ledger)
    recovery.sweep()
    log.append("recovery_pass", damaged=recovery.recover().damaged)
    return History.collect(config, tmp_path, ledger)


def _worker(ledger: Ledger) -> WorkerSession:
    worker = WorkerSession(ledger, "p", rng=random.Random(1))
    worker.begin()
    return worker


def _job(history: History) -> str:
    (job,) = history.jobs
    return job


def _result(history: History) -> str:
    return history.keys(_job(history)).result(ItemRef(0, 0))


def _download(history: History) -> HistoryEvent:
    return history.events("downloaded")[0]


def _result_overwritten(history: History) -> History:
    """Let a zombie replace a result by its own."""
    key = _result(history)
    record, _ = history.results(_job(history))[ItemRef(0, 0)]
    assert isinstance(record, ResultRecord)
    zombie_record = record.model_copy(update={"nonce": "zombie.n", "sha256": digest(b"other")})
    return put(history, key, pack(zombie_record, b"other"))


def _result_failed(history: History) -> History:
    record = ResultRecord(nonce="w.n", status="failed", attempt=4, reason="tampered")
    return put(history, _result(history), pack(record))


def _claims(history: History, number: int) -> list[HistoryEvent]:
    return [event for event in history.events("claim_seen") if event["number"] == number]


def _claimed_late(history: History) -> History:
    """Delay everything that the observer saw after the fault."""
    hit = history.events("fault")[0].time
    events = [
        replace(event, time=event.time + 100)
        if event.time > hit and event.process == "observer"
        else event
        for event in history.all_events
    ]
    return replace(history, all_events=events)


def _never_claimed(history: History) -> History:
    key = _result(history)
    for event in [*_claims(history, 2), *history.events("result_seen")]:
        if event.fields.get("index") == 0 or event.fields.get("key") == key:
            history = remove(history, event)
    return history


TAMPERINGS: list[tuple[Check, Tampering]] = [
    (fault_missed, lambda h: change(h, h.events("fault")[0], pids=[])),
    (fault_missed, lambda h: remove(h, h.events("fault")[0])),
    (process_failed, lambda h: append(h, "recovery_pass", damaged={"job": "why"})),
    (operation_answered_wrongly, lambda h: remove(h, completion(h, "again"))),
    (key_made_two_jobs, lambda h: change(h, completion(h, "again"), created=True)),
    (unfinished_items, lambda h: append(h, "overdue", jobs=["x"])),
    (unfinished_items, lambda h: put(h, _result(h), None)),
    (views_differ, _result_failed),
    (result_changed, _result_overwritten),
    (result_changed, lambda h: change(h, h.events("result_seen")[0], sha256="0")),
    (result_changed, lambda h: put(h, _result(h), None)),
    (item_not_succeeded_once, _result_failed),
    (item_not_succeeded_once, lambda h: put(h, _result(h), None)),
    (item_not_succeeded_once, lambda h: put(h, h.keys(_job(h)).spec, None)),
    (download_differs, _result_overwritten),
    (download_differs, lambda h: change(h, _download(h), sha256="0")),
    (download_differs, lambda h: change(h, _download(h), state="failed")),
    (download_differs, lambda h: remove(h, _download(h))),
    (token_worse, lambda h: change(h, _download(h), angle=0.6)),
    (token_worse, lambda h: change(h, _download(h), angle=float("nan"))),
    (token_worse, lambda h: change(h, _download(h), steps=3)),
    (token_worse, lambda h: change(h, _download(h), error="not an artifact")),
    (recovery_late, _claimed_late),
    (recovery_late, _never_claimed),
]


def test_an_untampered_history_has_no_violations(history: History) -> None:
    assert violations(history, CHECKS) == []
    recovery = measure_recovery(history)
    assert recovery.interrupted == 2
    assert recovery.claimed_after_s is not None
    assert recovery.ledger_s == recovery.claimed_after_s > 0


@pytest.mark.parametrize(("check", "tampering"), TAMPERINGS)
def test_each_check_detects_the_tampering_that_it_is_for(
    history: History, check: Check, tampering: Tampering
) -> None:
    assert check(tampering(history))


def test_every_check_has_a_tampering() -> None:
    assert {check for check, _ in TAMPERINGS} == set(CHECKS)


def test_an_item_that_ended_before_the_fault_was_not_interrupted(history: History) -> None:
    saw = next(event for event in history.events("result_seen") if event["key"] == _result(history))
    before = history.events("fault")[0].time - 1e-9
    assert (
        measure_recovery(insert(remove(history, saw), replace(saw, time=before))).interrupted == 1
    )


def test_the_time_until_a_worker_has_loaded_its_model_is_not_the_ledgers(history: History) -> None:
    hit, claim = history.events("fault")[0], _claims(history, 2)[-1]
    with_node = change(history, hit, kind="node", workers=[])
    with_node = change(with_node, with_node.events("targets_chosen")[0], left=[])
    with_node = insert(
        with_node, HistoryEvent(claim.time - 1e-9, "round", "recovered", {"name": "supervisor"})
    )
    recovery = measure_recovery(with_node)
    assert recovery.interrupted == 2
    assert recovery.claimed_after_s is not None
    assert recovery.recovered_after_s["supervisor"] == pytest.approx(recovery.ready_after_s)
    assert recovery.ledger_s is not None
    assert recovery.ledger_s == pytest.approx(recovery.claimed_after_s - recovery.ready_after_s)
    assert 0 <= recovery.ledger_s < recovery.claimed_after_s


def test_a_paused_worker_continues_unless_it_was_declared_dead(history: History) -> None:
    hit = history.events("fault")[0]
    paused = insert(
        change(history, hit, kind="paused"),
        HistoryEvent(hit.time, "round", "continued", {"pid": 1}),
    )
    paused = _never_claimed(paused)
    assert not measure_recovery(paused).is_complete
    for event in paused.events("attempt_end_seen"):
        paused = remove(paused, event)
    assert measure_recovery(paused).claimed_after_s == 0


def test_a_result_that_changes_is_seen_by_the_observer(history: History, tmp_path: Path) -> None:
    store, key = history.ledger.store, _result(history)
    observer = StoreObserver(
        history.ledger, history.config.tenant, HistoryLog(tmp_path, "observer-2")
    )
    observer.observe()
    there = store.read(key).body
    store.put(key, there.replace(b'"attempt":2', b'"attempt":1'))
    observer.observe()
    assert result_changed(History.collect(history.config, tmp_path, history.ledger))


def test_six_rounds_have_every_kind_of_fault_in_an_order_by_the_seed() -> None:
    drawn = draw_faults(12, seed=3)
    for six in (drawn[:6], drawn[6:]):
        assert {kinds[0] for kinds in six if len(kinds) == 1} == set(KINDS)
        assert sum(len(kinds) == 2 for kinds in six) == 1
    assert drawn == draw_faults(12, seed=3) != draw_faults(12, seed=4)


def test_the_angle_is_the_largest_of_all_vectors() -> None:
    def token(*rows: tuple[float, float]) -> LearnedToken:
        return LearnedToken("<a>", {"text": torch.tensor(rows)})

    one = token((1.0, 0.0), (0.0, 2.0))
    assert angle_degrees(one, one) == 0
    assert angle_degrees(one, token((1.0, 1.0), (0.0, 3.0))) == pytest.approx(45)
