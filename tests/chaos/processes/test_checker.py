"""Every check finds what it is for, and finds nothing in a round in which all went well."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.processes.checker import CHECKS, Check, violations
from chaos.processes.checker.attempts import (
    begun_after_end,
    cancelled_began,
    resumed_behind,
    shared_alone,
)
from chaos.processes.checker.counting import open_left, views_differ
from chaos.processes.checker.deletions import deletions_undone
from chaos.processes.checker.failures import failed_without_cause, poison_survived
from chaos.processes.checker.processes import processes_failed
from chaos.processes.checker.rebuilding import rebuilt
from chaos.processes.checker.requests import (
    answers_wrong,
    conflicts_missed,
    keys_made_two,
    submissions_lost,
)
from chaos.processes.checker.results import results_changed, results_dishonest, successes_lost
from chaos.processes.environment import Scene, play
from chaos.processes.history import Evidence
from chaos.processes.lines import Line, Log, read_log
from chaos.processes.tampering import (
    LATE,
    add,
    answer,
    forge,
    job,
    lay,
    make,
    poison,
    refuse,
    say,
    start,
    success,
    take_back,
    tell,
    tombstone,
)
from services.ledger.keys import ItemRef
from services.ledger.records import EndedRecord, pack

Doctor = Callable[[Evidence], Evidence]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return play(tmp_path_factory.mktemp("scene") / "logs")


def _put_back(evidence: Evidence) -> Evidence:
    """A deleted item's result."""
    keys, place, _ = success(evidence, "first")
    index = evidence.of("delete_item")[0].asked["index"]
    return make(evidence, keys, ItemRef(0, index), reason=f"as {place}")


def _worn_out(evidence: Evidence) -> Evidence:
    """An innocent item that was lost four times, at last to poison."""
    keys, place, _ = success(evidence)
    by = evidence.said("poison")[0]["worker"]
    claim = b'{"nonce":"n","type":"claim","worker":"%s"}\n' % by.encode()
    for number in range(1, 5):
        end = pack(EndedRecord(nonce="n", cause="lost", reason="killed"))
        evidence = lay(evidence, keys.attempt_end(place, number), end)
        evidence = lay(evidence, keys.attempt(place, number), claim)
    return make(evidence, keys, place, attempt=4)


def _kept_more(evidence: Evidence) -> Evidence:
    """A checkpoint before a claim, further on than where that attempt began."""
    line = start(evidence, resumed=True)
    kept = line.told | {"number": line["number"] - 1, "step": line["resume"] + 1}
    return add(evidence, Line(line["claimed"] - 1e-6, "test", "checkpoint", kept))


def _beside_alone(evidence: Evidence) -> Evidence:
    line = next(line for line in evidence.said("start") if line["alone"])
    beside = line.told | {"index": 4999, "alone": False}
    return add(evidence, Line(line.t + 1e-9, "test", "start", beside))


def _revived(evidence: Evidence) -> Evidence:
    line = next(line for line in evidence.said("saw") if not line["live"])
    return add(evidence, Line(LATE, "test", "saw", line.told | {"live": True, "sha256": "0"}))


DOCTORS: list[tuple[Check, Doctor]] = [
    (processes_failed, lambda e: say(e, "gone", name="worker-9", of=1, code=1)),
    (processes_failed, lambda e: say(e, "gone", name="worker-9", of=1, code=-9)),
    (processes_failed, lambda e: say(e, "gone", name="worker-9", of=1, code=0)),
    (processes_failed, lambda e: say(e, "passed", damaged={"job": "why"})),
    (answers_wrong, lambda e: take_back(e, answer(e, "view"))),
    (answers_wrong, lambda e: refuse(e, "cancel", "ConflictError")),
    (answers_wrong, lambda e: refuse(e, "again", "UnknownJobError")),
    (answers_wrong, lambda e: refuse(e, "retry", "DeletedError")),
    (answers_wrong, lambda e: refuse(e, "retry", "ConflictError")),
    (answers_wrong, lambda e: tell(e, answer(e, "view"), total=4)),
    (submissions_lost, lambda e: lay(e, job(e, "first").spec, None)),
    (submissions_lost, lambda e: lay(e, job(e, "first").spec, tombstone())),
    (submissions_lost, lambda e: lay(e, job(e, "first").spec, e.objects[job(e, "cancelled").spec])),
    (keys_made_two, lambda e: tell(e, answer(e, "again"), job=job(e, "cancelled").job)),
    (keys_made_two, lambda e: tell(e, answer(e, "again"), created=True)),
    (conflicts_missed, lambda e: tell(e, answer(e, "other"), error="", job="x", created=False)),
    (open_left, lambda e: lay(e, success(e)[0].result(success(e)[1]), None)),
    (open_left, lambda e: lay(e, success(e)[0].checkpoint(success(e)[1], 1), b"{}\n")),
    (open_left, lambda e: say(e, "overdue", jobs=["x"])),
    (views_differ, lambda e: make(e, *success(e)[:2])),
    (views_differ, lambda e: lay(e, job(e, "cancelled").cancellation, None)),
    (results_changed, lambda e: tell(e, _sight(e), sha256="0")),
    (results_changed, _revived),
    (results_changed, lambda e: lay(e, success(e)[0].result(success(e)[1]), None)),
    (results_changed, lambda e: say(e, "vanished", key="x")),
    (results_dishonest, lambda e: forge(e, honest_digest=False, once="0")),
    (results_dishonest, lambda e: forge(e, honest_digest=True, index=4999)),
    (results_dishonest, lambda e: forge(e, honest_digest=True, worker="another")),
    (
        results_dishonest,
        lambda e: lay(e, success(e)[0].attempt(success(e)[1], success(e)[2]["number"]), None),
    ),
    (successes_lost, lambda e: lay(e, success(e)[0].result(success(e)[1]), tombstone())),
    (successes_lost, lambda e: forge(e, honest_digest=True, once="0")),
    (deletions_undone, _put_back),
    (deletions_undone, lambda e: tell(e, answer(e, "delete_token"), read="its payload")),
    (deletions_undone, lambda e: lay(e, job(e, "first").checkpoint(ItemRef(0, 1), 1), b"{}\n")),
    (deletions_undone, lambda e: tell(e, e.of("delete_token")[0].asked, token=_live_token(e))),
    (
        deletions_undone,
        lambda e: lay(e, job(e, "deleted").spec, e.objects[job(e, "first").spec]),
    ),
    (deletions_undone, lambda e: lay(e, job(e, "deleted").attempt(ItemRef(0, 0), 1), b"{}\n")),
    (deletions_undone, lambda e: make(e, job(e, "deleted"), ItemRef(0, 0))),
    (
        cancelled_began,
        lambda e: tell(e, start(e), job=job(e, "cancelled").job, asked=LATE),
    ),
    (
        cancelled_began,
        lambda e: tell(e, start(e), job=job(e, "first").job, index=1, asked=LATE),
    ),
    (begun_after_end, lambda e: tell(e, start(e), claimed=LATE)),
    (resumed_behind, _kept_more),
    (
        resumed_behind,
        lambda e: tell(
            e, start(e, resumed=True), of=start(e, resumed=True)["of"] | {"index": 4999}
        ),
    ),
    (shared_alone, _beside_alone),
    (poison_survived, lambda e: make(e, *poison(e), status="succeeded", sha256="0")),
    (poison_survived, lambda e: lay(e, poison(e)[0].result(poison(e)[1]), None)),
    (failed_without_cause, lambda e: make(e, *success(e)[:2])),
    (failed_without_cause, _worn_out),
]


def _sight(evidence: Evidence) -> Line:
    """Of a result that was never deleted."""
    keys, place, _ = success(evidence)
    return next(line for line in evidence.said("saw") if line["key"] == keys.result(place))


def _live_token(evidence: Evidence) -> str:
    return answer(evidence, "look")["tokens"][-1]


def test_nothing_is_found_where_all_went_well(evidence: Evidence) -> None:
    assert violations(evidence) == []
    assert len(evidence.said("poison")) == 4
    assert answer(evidence, "retry")["count"] > 0


@pytest.mark.parametrize(("check", "doctor"), DOCTORS)
def test_what_is_wrong_is_found(evidence: Evidence, check: Check, doctor: Doctor) -> None:
    assert check(doctor(evidence))


def test_every_check_was_tried() -> None:
    assert {check for check, _ in DOCTORS} == set(CHECKS)


def test_attempts_without_reason_are_found(evidence: Evidence) -> None:
    keys, place = poison(evidence)
    ended = keys.attempt_end(place, 2)
    there = evidence.ledger.store.read(ended).body
    evidence.ledger.store.delete(ended)
    try:
        assert poison_survived(evidence)
    finally:
        evidence.ledger.store.create(ended, there)


def test_what_only_a_rollup_knew_is_found(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "logs")
    keys = scene.plan.tenant, scene.submit("first")
    scene.work()
    evidence = scene.evidence()
    assert rebuilt(evidence) == []
    result = evidence.keys(keys[1]).result(ItemRef(0, 0))
    evidence.ledger.store.delete(result)
    assert rebuilt(evidence)


def test_a_log_survives_half_a_line(tmp_path: Path) -> None:
    log = Log(tmp_path, "client-0")
    log.say("asked", n=0)
    with log.path.open("ab") as file:
        file.write(b'{"t": 1, "wh')
    Log(tmp_path, "client-0").say("answered", n=0)
    lines = read_log(log.path)
    assert [line.what for line in lines] == ["asked", "answered"]
    assert lines[0].pid == os.getpid()
