"""The facts in the log of a run; a damaged log never ends the report."""

import json
from math import inf, nan
from typing import Any

import pytest

from dti_engine.quality.run_log import RunHistory, SubjectHistory


def _history(*events: dict[str, Any]) -> RunHistory:
    return RunHistory.of(events)


def _of(name: str, event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "subject": name, **fields}


STARTED = {"event": "started", "slots": 4, "subjects": 2}


def test_losses_are_kept_by_step_and_a_resumed_training_replaces_repeated_steps() -> None:
    past = _history(
        STARTED,
        _of("rex", "slot_assigned", step=0, steps=60),
        _of("rex", "progress", step=20, fixed_loss=0.3, seconds=1.0),
        _of("rex", "progress", step=40, fixed_loss=0.2, seconds=2.0),
        STARTED,
        _of("rex", "slot_assigned", step=30, steps=60),
        _of("rex", "progress", step=40, fixed_loss=0.21, seconds=0.5),
    ).subjects["rex"]
    assert past.losses == {20: 0.3, 40: 0.21}
    assert (past.steps, past.seconds, past.is_finished) == (60, 0.5, False)


def test_a_failure_is_one_until_success_follows() -> None:
    failed = [STARTED, _of("rex", "failed", error="no image", kind="InvalidBundleError")]
    past = _history(*failed, STARTED).subjects["rex"]
    assert (past.failure, past.failure_kind) == ("no image", "InvalidBundleError")
    for success in ("finished", "skipped"):
        past = _history(*failed, STARTED, _of("rex", success)).subjects["rex"]
        assert (past.failure, past.failure_kind, past.is_finished) == (None, None, True)


def test_warnings_are_those_of_the_last_run_that_a_subject_was_in_each_once() -> None:
    history = _history(
        STARTED,
        _of("rex", "warning", message="blurred"),
        _of("tom", "warning", message="small"),
        STARTED,
        _of("rex", "warning", message="like another"),
        _of("rex", "warning", message="like another"),
    )
    assert history.subjects["rex"].warnings == ["like another"]
    assert history.subjects["tom"].warnings == ["small"]


def test_the_pace_is_that_of_all_runs_that_logged_their_end() -> None:
    ended = {"event": "ended", "seconds": 100.0, "tokens": [{}, {}, {}]}
    history = _history(STARTED, ended, STARTED, {**ended, "tokens": [{}]}, STARTED)
    assert (history.seconds, history.num_finished, history.is_ended) == (200.0, 4, False)
    assert history.subjects_per_hour == pytest.approx(3600 * 4 / 200)
    assert _history(STARTED).subjects_per_hour is None


def test_subjects_that_waited_when_the_run_was_stopped_are_listed() -> None:
    history = _history(
        STARTED,
        {"event": "stopped", "signal": "SIGINT"},
        {"event": "ended", "unfinished": [{"subject": "tom", "checkpoint_step": None}, 3]},
    )
    assert history.subjects == {"tom": SubjectHistory()}
    assert history.stopped_by == "SIGINT"


@pytest.mark.parametrize(
    "event",
    [
        {"event": None},
        {"event": ["failed"]},
        {"event": "failed"},
        {"event": "failed", "subject": 7},
        {"event": "failed", "subject": ["rex"]},
        {"event": "progress", "subject": "rex"},
        {"event": "progress", "subject": "rex", "step": "20", "fixed_loss": [0.1]},
        {"event": "progress", "subject": "rex", "step": True, "fixed_loss": nan},
        {"event": "progress", "subject": "rex", "step": 20.5, "fixed_loss": 0.1},
        {"event": "progress", "subject": "rex", "step": 20, "fixed_loss": inf},
        {"event": "progress", "subject": "rex", "step": 10**400, "fixed_loss": 10**400},
        {"event": "slot_assigned", "subject": "rex", "step": {}, "steps": None},
        {"event": "finished", "subject": "rex", "placeholder": 1, "steps": "all"},
        {"event": "warning", "subject": "rex", "message": {}},
        {"event": "started", "config": 3, "slots": "four"},
        {"event": "ended", "tokens": 3, "unfinished": {"subject": "rex"}, "seconds": "long"},
        {"event": "stopped"},
    ],
)
def test_an_event_that_makes_no_sense_tells_nothing(event: dict[str, Any]) -> None:
    history = _history(STARTED, event)
    assert all(not past.losses for past in history.subjects.values())
    assert history.seconds == 0


def test_a_failure_without_words_is_a_failure() -> None:
    (past,) = _history(_of("rex", "failed")).subjects.values()
    assert past.failure == "the log does not say why"
    assert json.dumps(past.failure)
