"""Everything that the report of a run shows: which subjects, in which order, from what."""

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from dti_engine.artifacts.manifest import BlendedOrigin, Parent
from dti_engine.cli.run_log import FILE
from dti_engine.errors import ConfigurationError
from dti_engine.quality.run_log import RunHistory
from dti_engine.quality.summary import SubjectReport, collect_report
from dti_engine.recipes import miniature


def _row(hand_made: Any, name: str) -> SubjectReport:
    return next(each for each in hand_made.summary().rows if each.name == name)


def test_the_worst_token_comes_first(hand_made: Any) -> None:
    hand_made.add("best", scores=(0.9, 1.0))
    hand_made.add("good", scores=(0.7, 1.0))
    hand_made.add("flagged-good", scores=(0.8, 1.0), flags=["odd"])
    hand_made.add("flagged-bad", scores=(0.2, 1.0), flags=["odd"])
    hand_made.add("flagged-twice", scores=(0.95, 1.0), flags=["odd", "odder"])
    hand_made.add("unvalidated-near", is_validated=False, angle_deg=31.0)
    hand_made.add("unvalidated-far", is_validated=False, angle_deg=70.0)
    hand_made.add("damaged").write_bytes(b"no token")
    hand_made.log("started", subjects=10)
    hand_made.log("failed", subject="failed", error="no images")
    hand_made.log("slot_assigned", subject="under-way", step=0, steps=40)
    for name in ("best", "good", "flagged-good", "flagged-bad", "flagged-twice"):
        hand_made.log("validated", subject=name)
    summary = hand_made.summary()
    assert [each.name for each in summary.rows] == [
        *("damaged", "failed", "flagged-twice", "flagged-bad", "flagged-good", "good", "best"),
        *("unvalidated-far", "unvalidated-near", "under-way"),
    ]
    assert summary.counts == {
        "subjects": 10,
        "learned": 7,
        "failed": 1,
        "unreadable": 1,
        "flagged": 3,
        "passed": 2,
        "unvalidated": 2,
        "unfinished": 1,
    }


def test_without_a_scorer_the_farthest_from_the_median_angle_come_first(hand_made: Any) -> None:
    for name, angle in {"a": 30.0, "b": 31.0, "c": 29.5, "d": 2.0, "e": 45.0}.items():
        hand_made.add(name, scores=None, angle_deg=angle)
    summary = hand_made.summary()
    assert [each.name for each in summary.rows] == ["d", "e", "b", "c", "a"]
    assert summary.scorers == ()
    assert set(summary.means.values()) == {None}
    assert summary.median_angle_deg == pytest.approx(30)
    assert {each.state for each in summary.rows} == {"passed"}
    assert (summary.rows[0].score, summary.best) == (None, ())


def test_a_token_that_cannot_be_read_is_a_row_with_its_error(hand_made: Any) -> None:
    data = hand_made.add("cut").read_bytes()
    (hand_made.root / "cut.safetensors").write_bytes(data[:100])
    (hand_made.root / "folder.safetensors").mkdir()
    for name, message in {"cut": "cut off", "folder": "cannot read"}.items():
        found = _row(hand_made, name)
        assert found.state == "unreadable"
        assert message in (found.problem or "")
        assert found.problem_kind in ("ArtifactFormatError", "ArtifactError")


def test_a_subject_that_succeeded_on_resume_has_not_failed(hand_made: Any) -> None:
    hand_made.add("rex")
    hand_made.log("started")
    hand_made.log("failed", subject="rex", error="the disk was full")
    hand_made.log("started")
    hand_made.log("finished", subject="rex", steps=40)
    hand_made.log("validated", subject="rex")
    found = _row(hand_made, "rex")
    assert (found.state, found.problem, found.remarks) == ("passed", None, ())


def test_a_failed_subject_has_failed_despite_an_older_token(hand_made: Any) -> None:
    hand_made.add("rex", scores=(0.1, 0.1))
    hand_made.add("tom", scores=(0.5, 0.9))
    hand_made.log("started")
    hand_made.log("failed", subject="rex", error="lr was 0.1, is now 0.2", kind="ArtifactError")
    hand_made.log("validated", subject="tom")
    found = _row(hand_made, "rex")
    assert (found.state, found.problem) == ("failed", "lr was 0.1, is now 0.2")
    assert "the folder holds a token of an earlier run" in found.remarks
    assert hand_made.summary().means["subject_score"] == 0.5


def test_a_truncated_log_is_read_up_to_the_cut(hand_made: Any) -> None:
    hand_made.log("started", subjects=2, slots=3)
    hand_made.log("failed", subject="rex", error="no images")
    with (hand_made.root / FILE).open("ab") as file:
        file.write(b'{"event": "finished", "subject": "re')
    summary = hand_made.summary()
    assert [(each.name, each.state) for each in summary.rows] == [("rex", "failed")]
    assert (summary.run.num_slots, summary.run.is_ended) == (3, False)


def test_without_a_log_the_facts_come_from_the_tokens(hand_made: Any) -> None:
    hand_made.add("rex", first_fixed_loss=0.4)
    history = RunHistory(problem="cannot read 'run.jsonl'")
    summary = collect_report(hand_made.root, history)
    (found,) = summary.rows
    assert summary.run.log_problem == "cannot read 'run.jsonl'"
    assert summary.run.models == ("miniature",)
    assert (found.state, found.remarks, found.is_uncompared) == ("passed", (), False)
    assert found.curve == ((0, 0.4), (40, 0.2))
    assert found.loss_share == pytest.approx(0.5)


def test_the_way_of_the_loss_begins_with_the_first_and_goes_past_a_token_that_was_chosen(
    hand_made: Any,
) -> None:
    hand_made.add("rex", stop_reason="chosen", first_fixed_loss=0.4)
    for step, loss in {20: 0.3, 40: 0.2, 60: 0.25}.items():
        hand_made.log("progress", subject="rex", step=step, fixed_loss=loss)
    found = _row(hand_made, "rex")
    assert found.curve == ((0, 0.4), (20, 0.3), (40, 0.2), (60, 0.25))
    assert (found.steps_done, found.stop_reason) == (40, "chosen")


def test_missing_facts_are_noted(hand_made: Any) -> None:
    hand_made.add("rex")
    hand_made.add("tom", has_images=False)
    (hand_made.root / "validation/rex/1.png").unlink()
    hand_made.log("finished", subject="gone")
    rex, tom, missing = (_row(hand_made, name) for name in ("rex", "tom", "gone"))
    assert rex.remarks == ("1 of its 2 images are missing",)
    assert [each.file for each in rex.images] == ["validation/rex/0.png", None]
    assert rex.reference == "validation/rex/reference.jpg"
    assert tom.remarks[1] == "the copy of its first image is missing"
    assert (missing.state, missing.problem_kind) == ("unreadable", "missing")


def test_a_token_that_was_not_compared_with_the_others_is_noted(hand_made: Any) -> None:
    hand_made.add("rex")
    hand_made.log("finished", subject="rex")
    assert _row(hand_made, "rex").is_uncompared
    hand_made.log("validated", subject="rex")
    assert not _row(hand_made, "rex").is_uncompared


def test_a_fixed_magnitude_is_shown_in_units_of_word_magnitudes(
    hand_made: Any,
) -> None:
    hand_made.add("long", config=miniature().changed(magnitude=4.0))
    assert _row(hand_made, "long").length_share is None
    hand_made.add("plain")
    assert _row(hand_made, "plain").length == 2.0
    assert _row(hand_made, "plain").length_share == 1.0
    assert _row(hand_made, "long").length_share == 1.0  # both are (1, 1, 1, 1)


def test_a_blend_in_the_folder_is_left_out(hand_made: Any, artifact_of: Any) -> None:
    hand_made.add("rex")
    artifact = artifact_of({"text_encoder": torch.ones(1, 4)})
    parents = (Parent(placeholder="<rex>", sha256="0" * 64, share=1.0),)
    manifest = artifact.manifest.model_copy(update={"origin": BlendedOrigin(parents=parents)})
    type(artifact)(manifest, artifact.token).save(hand_made.root / "mixed.safetensors")
    summary = hand_made.summary()
    assert [each.name for each in summary.rows] == ["rex"]
    assert summary.left_out == ("mixed",)


def test_the_worst_and_the_best_have_nothing_in_common(hand_made: Any) -> None:
    for i in range(40):
        flags = ["odd"] if i % 10 == 0 else []
        hand_made.add(f"subject-{i:02d}", scores=(i / 40, 1.0), flags=flags)
    summary = hand_made.summary()
    worst, best = ([each.name for each in part] for part in (summary.worst, summary.best))
    assert len(worst) == 12
    assert worst[:5] == ["subject-00", "subject-10", "subject-20", "subject-30", "subject-01"]
    assert best == ["subject-39", "subject-38", "subject-37", "subject-36"]


def test_of_a_small_run_everything_is_among_the_worst_or_the_best(hand_made: Any) -> None:
    for i in range(3):
        hand_made.add(f"subject-{i}", scores=(i / 4, 1.0))
    summary = hand_made.summary()
    assert len(summary.worst) == 3
    assert summary.best == ()


def test_the_document_has_every_row_in_order_as_plain_values(hand_made: Any) -> None:
    hand_made.add("rex", scores=(0.3, 0.9))
    hand_made.add("tom", flags=["odd"])
    hand_made.log("started", model="miniature", config={"lr": 0.1})
    summary = hand_made.summary()
    document = json.loads(json.dumps(summary.document()))
    assert [each["name"] for each in document["subjects"]] == ["tom", "rex"]
    assert document["subjects"] == json.loads(json.dumps([asdict(each) for each in summary.rows]))
    assert document["counts"] == summary.counts
    assert document["run"]["config"] == {"lr": 0.1}


def test_a_folder_without_tokens_and_log_is_refused_with_what_to_give(hand_made: Any) -> None:
    (hand_made.root / "photo.png").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"no tokens and no log.*--output"):
        hand_made.summary()
