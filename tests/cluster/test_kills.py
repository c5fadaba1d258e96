"""A round of `kills_of_service` on a folder: a worker is killed and another one takes over."""

from pathlib import Path

import pytest
from kills_of_service.course import Course
from kills_of_service.rounds import Round
from kills_of_service.stage import staged

pytestmark = pytest.mark.ray


def test_what_a_killed_worker_had_in_hand_is_learned_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    # How soon is for runs on a host of their own to say.
    quick = {"lease": 3, "checkpoint": 1, "subjects": 2, "items": 2, "steps": 30, "margin": 60}
    course = Course(str(tmp_path / "store"), **quick)
    logs = tmp_path / "logs"
    logs.mkdir()
    with staged(course, logs) as (stage, left):
        one = Round(stage, stage.learn_undisturbed(), "7")
        verdict = one.run(("worker",))
        assert verdict.violations == []
        assert verdict.recovery
        assert verdict.recovery.in_hand > 0
        assert verdict.lost
        assert one.look_again() == []
    assert left == []
