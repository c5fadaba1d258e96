"""The checks find nothing in a round in which all went well, and each what it is for."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chaos.processes.checker import Check
from chaos.processes.checker.counting import open_left, views_differ
from chaos.processes.checker.processes import processes_failed
from chaos.processes.checker.requests import answers_wrong, keys_made_two
from chaos.processes.checker.results import results_changed
from chaos.processes.generator import Plan
from chaos.processes.history import Evidence, digest
from chaos.processes.lines import Line, Log
from chaos.processes.tampering import add, answer, lay, say, take_back, tell
from chaos.service.checker import (
    CHECKS,
    downloads_differ,
    hits_missed,
    not_once_succeeded,
    recovered_late,
    tokens_worse,
    violations,
)
from chaos.service.history import Journal
from chaos.service.nemesis import KINDS, deal
from chaos.service.recovery import recovery_of
from chaos.service.tokens import angle
from dti_engine.text.tokens import LearnedToken
from services.contracts.jobs import Item, JobRequest
from services.ledger.keys import ItemRef
from services.ledger.ledger import Ledger
from services.ledger.records import ResultRecord, pack
from services.ledger.recovery import Recovery
from services.ledger.results import end_attempt
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.storage.memory import MemoryStore

Doctor = Callable[[Evidence], Evidence]
_STEPS = 8


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """A worker has two items in hand and is hit; another takes them up, and both succeed."""
    plan = Plan("memory:", "scene", tenant="t", pool="p", lease=60, look=0.001)
    ledger = Ledger.open(MemoryStore(), plan.settings)
    log, client = Log(tmp_path, "round"), Log(tmp_path, "client-0")
    journal = Journal(ledger, plan.tenant, Log(tmp_path, "journal"))
    log.say("begun", kinds=["worker"], steps=_STEPS, margin=10)
    request = JobRequest(pool="p", items=(Item(name="a", work={}), Item(name="b", work={})))
    client.say("asked", n=0, op="submit", key="k")
    job = submit(ledger, plan.tenant, "k", request).job
    client.say("answered", n=0, job=job, created=True)
    first = _worker(ledger)
    lost = first.claim(2)
    journal.look()
    log.say("moment", workers=[1, 2], left=[2])
    log.say("hit", kind="worker", pids=[1], hands=[first.lease.worker])
    client.say("asked", n=1, op="again", key="k")
    client.say("answered", n=1, job=job, created=False)
    for one in lost:
        end_attempt(ledger, one.keys, one.item_ref, one.number, "lost", "it was killed")
    second = _worker(ledger)
    journal.look()
    for one in second.claim(2):
        journal.look()
        one.succeed(one.item.name.encode(), {"steps": _STEPS})
        log.say(
            "told",
            job=job,
            index=one.item_ref.index,
            state="succeeded",
            error="",
            sha256=digest(one.item.name.encode()),
            steps=_STEPS,
            resumed_at=3,
            angle=0.1,
            seeds=5.0,
        )
    journal.look()
    supervisor = Recovery(ledger)
    supervisor.sweep()
    log.say("passed", damaged=supervisor.recover().damaged)
    return Evidence.gather(plan, tmp_path, ledger)


def _worker(ledger: Ledger) -> WorkerSession:
    worker = WorkerSession(ledger, "p", rng=random.Random(1))
    worker.begin()
    return worker


def _job(evidence: Evidence) -> str:
    (job,) = evidence.jobs
    return job


def _result(evidence: Evidence) -> str:
    return evidence.keys(_job(evidence)).result(ItemRef(0, 0))


def _told(evidence: Evidence) -> Line:
    return evidence.said("told")[0]


def _overwritten(evidence: Evidence) -> Evidence:
    """A zombie has put its own in place of a result."""
    key = _result(evidence)
    record, _ = evidence.outcomes(_job(evidence))[ItemRef(0, 0)]
    assert isinstance(record, ResultRecord)
    ours = record.model_copy(update={"nonce": "zombie.n", "sha256": digest(b"other")})
    return lay(evidence, key, pack(ours, b"other"))


def _failed(evidence: Evidence) -> Evidence:
    record = ResultRecord(nonce="w.n", status="failed", attempt=4, reason="doctored")
    return lay(evidence, _result(evidence), pack(record))


def _claims(evidence: Evidence, number: int) -> list[Line]:
    return [line for line in evidence.said("claimed") if line["number"] == number]


def _taken_up_late(evidence: Evidence) -> Evidence:
    """All that the journal saw after the hit, later than is allowed."""
    hit = evidence.said("hit")[0].t
    lines = [
        replace(line, t=line.t + 100) if line.t > hit and line.who == "journal" else line
        for line in evidence.lines
    ]
    return replace(evidence, lines=lines)


def _never_taken_up(evidence: Evidence) -> Evidence:
    key = _result(evidence)
    for line in [*_claims(evidence, 2), *evidence.said("saw")]:
        if line.told.get("index") == 0 or line.told.get("key") == key:
            evidence = take_back(evidence, line)
    return evidence


DOCTORS: list[tuple[Check, Doctor]] = [
    (hits_missed, lambda e: tell(e, e.said("hit")[0], pids=[])),
    (hits_missed, lambda e: take_back(e, e.said("hit")[0])),
    (processes_failed, lambda e: say(e, "passed", damaged={"job": "why"})),
    (answers_wrong, lambda e: take_back(e, answer(e, "again"))),
    (keys_made_two, lambda e: tell(e, answer(e, "again"), created=True)),
    (open_left, lambda e: say(e, "overdue", jobs=["x"])),
    (open_left, lambda e: lay(e, _result(e), None)),
    (views_differ, _failed),
    (results_changed, _overwritten),
    (results_changed, lambda e: tell(e, e.said("saw")[0], sha256="0")),
    (results_changed, lambda e: lay(e, _result(e), None)),
    (not_once_succeeded, _failed),
    (not_once_succeeded, lambda e: lay(e, _result(e), None)),
    (not_once_succeeded, lambda e: lay(e, e.keys(_job(e)).spec, None)),
    (downloads_differ, _overwritten),
    (downloads_differ, lambda e: tell(e, _told(e), sha256="0")),
    (downloads_differ, lambda e: tell(e, _told(e), state="failed")),
    (downloads_differ, lambda e: take_back(e, _told(e))),
    (tokens_worse, lambda e: tell(e, _told(e), angle=0.6)),
    (tokens_worse, lambda e: tell(e, _told(e), angle=float("nan"))),
    (tokens_worse, lambda e: tell(e, _told(e), steps=3)),
    (tokens_worse, lambda e: tell(e, _told(e), error="not an artifact")),
    (recovered_late, _taken_up_late),
    (recovered_late, _never_taken_up),
]


def test_nothing_is_found_where_all_went_well(evidence: Evidence) -> None:
    assert violations(evidence) == []
    recovery = recovery_of(evidence)
    assert recovery.in_hand == 2
    assert recovery.held is not None
    assert recovery.taken == recovery.held > 0


@pytest.mark.parametrize(("check", "doctor"), DOCTORS)
def test_what_is_wrong_is_found(evidence: Evidence, check: Check, doctor: Doctor) -> None:
    assert check(doctor(evidence))


def test_every_check_was_tried() -> None:
    assert {check for check, _ in DOCTORS} == set(CHECKS)


def test_what_had_ended_before_the_hit_was_in_nobodys_hands(evidence: Evidence) -> None:
    saw = next(line for line in evidence.said("saw") if line["key"] == _result(evidence))
    before = evidence.said("hit")[0].t - 1e-9
    assert recovery_of(add(take_back(evidence, saw), replace(saw, t=before))).in_hand == 1


def test_a_node_is_waited_for_until_a_worker_has_loaded_its_model(evidence: Evidence) -> None:
    """What took longer than the ledger needs is told apart."""
    hit, claim = evidence.said("hit")[0], _claims(evidence, 2)[-1]
    of_node = tell(evidence, hit, kind="node", hands=[])
    of_node = tell(of_node, of_node.said("moment")[0], left=[])
    of_node = add(of_node, Line(claim.t - 1e-9, "round", "back", {"name": "supervisor"}))
    recovery = recovery_of(of_node)
    assert recovery.in_hand == 2
    assert recovery.held is not None
    assert recovery.back["supervisor"] == pytest.approx(recovery.ready)
    assert recovery.taken is not None
    assert recovery.taken == pytest.approx(recovery.held - recovery.ready)
    assert 0 <= recovery.taken < recovery.held


def test_a_sleeper_has_it_in_hand_again_unless_it_was_held_for_dead(evidence: Evidence) -> None:
    hit = evidence.said("hit")[0]
    asleep = add(tell(evidence, hit, kind="stopped"), Line(hit.t, "round", "woken", {"pid": 1}))
    asleep = _never_taken_up(asleep)
    assert not recovery_of(asleep).is_complete
    for line in asleep.said("over"):
        asleep = take_back(asleep, line)
    assert recovery_of(asleep).held == 0


def test_a_result_that_changes_is_seen_by_the_journal(evidence: Evidence, tmp_path: Path) -> None:
    """In the store itself, not in the evidence."""
    store, key = evidence.ledger.store, _result(evidence)
    journal = Journal(evidence.ledger, evidence.plan.tenant, Log(tmp_path, "journal-2"))
    journal.look()
    there = store.read(key).body
    store.put(key, there.replace(b'"attempt":2', b'"attempt":1'))
    journal.look()
    assert results_changed(Evidence.gather(evidence.plan, tmp_path, evidence.ledger))


def test_six_rounds_have_every_kind_and_the_seed_decides_their_order() -> None:
    dealt = deal(12, seed=3)
    for hand in (dealt[:6], dealt[6:]):
        assert {kinds[0] for kinds in hand if len(kinds) == 1} == set(KINDS)
        assert sum(len(kinds) == 2 for kinds in hand) == 1
    assert dealt == deal(12, seed=3) != deal(12, seed=4)


def test_the_angle_is_the_largest_of_all_vectors() -> None:
    def token(*rows: tuple[float, float]) -> LearnedToken:
        return LearnedToken("<a>", {"text": torch.tensor(rows)})

    one = token((1.0, 0.0), (0.0, 2.0))
    assert angle(one, one) == 0
    assert angle(one, token((1.0, 1.0), (0.0, 3.0))) == pytest.approx(45)
