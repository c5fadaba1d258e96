"""What is stored survives a stop, and never mixes with another evaluation."""

import json
from pathlib import Path

import pytest

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import Row, Shot
from dti_engine.evaluation.store import Score, Store
from dti_engine.miniature.world.subjects import held_out_subjects

SUBJECT = held_out_subjects("evaluation")[0]
SHOTS = [Shot(Row("dti", 0, 8), SUBJECT, prompt, image_seed=0) for prompt in range(3)]
SCORES = [Score.of(shot, subject_score=0.5, prompt_score=1.0, norm=0.4) for shot in SHOTS]


def test_scores_are_there_at_the_next_start(tmp_path: Path) -> None:
    first = Store(tmp_path / "new", {"weights": "a"})
    first.add(SCORES[:2])
    first.add(SCORES[2:])
    assert Store(tmp_path / "new", {"weights": "a"}).scores == first.scores
    assert [first.scores[shot.key] for shot in SHOTS] == SCORES


def test_a_line_that_was_cut_short_is_scored_again(tmp_path: Path) -> None:
    Store(tmp_path, {}).add(SCORES)
    file = tmp_path / "scores.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    again = Store(tmp_path, {})
    assert list(again.scores.values()) == SCORES[:2]
    again.add(SCORES[2:])
    assert list(Store(tmp_path, {}).scores.values()) == SCORES


def test_a_line_that_is_no_score_is_refused_by_its_number(tmp_path: Path) -> None:
    Store(tmp_path, {}).add(SCORES[:1])
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ConfigurationError, match=r"line 2 of .*remove that line"):
        Store(tmp_path, {})


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, {"weights": "a", "seed": 0})
    with pytest.raises(ConfigurationError, match="other options or weights"):
        Store(tmp_path, {"weights": "b", "seed": 0})


def test_time_adds_up_over_starts_even_those_that_fail(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    with pytest.raises(KeyboardInterrupt), store.session():
        raise KeyboardInterrupt
    lines = (tmp_path / "sessions.jsonl").read_text().splitlines()
    assert len(lines) == 1
    (tmp_path / "sessions.jsonl").write_text(
        json.dumps({"seconds": 100.0}) + "\n" + lines[0] + "\n"
    )
    with store.session() as seconds:
        assert 100.0 < seconds() < 160.0


def test_a_token_is_found_by_row_subject_seed_and_steps(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    rows = [Row("ti", 0, 8), Row("ti", 1, 8), Row("ti", 0, 4), Row("dti", 0, 8)]
    files = {store.token(row, SUBJECT, seed) for row in rows for seed in (0, 1)}
    assert len(files) == 8
    assert store.token(Row("ti_rescaled", 0, 8), SUBJECT, 0) == store.token(rows[0], SUBJECT, 0)
