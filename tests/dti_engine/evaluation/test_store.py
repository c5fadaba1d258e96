"""The store survives a stop and never mixes two evaluations."""

import json
from pathlib import Path

import pytest

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import EvaluationImage, TokenKey, token_row
from dti_engine.evaluation.store import EvaluationStore, ImageScore

SUBJECT = "car-0"
IMAGES = [
    EvaluationImage(token_row("dti", TokenKey("dti-0", 8)), SUBJECT, prompt, image_seed=0)
    for prompt in range(3)
]
SCORES = [ImageScore.of(image, subject_score=0.5, prompt_score=1.0) for image in IMAGES]


def test_scores_are_there_at_the_next_start(tmp_path: Path) -> None:
    first = EvaluationStore(tmp_path / "new", {"weights": "a"})
    first.add(SCORES[:2])
    first.add(SCORES[2:])
    assert EvaluationStore(tmp_path / "new", {"weights": "a"}).scores == first.scores
    assert [first.scores[image.key] for image in IMAGES] == SCORES


def test_a_line_that_was_cut_short_is_scored_again(tmp_path: Path) -> None:
    EvaluationStore(tmp_path, {}).add(SCORES)
    file = tmp_path / "scores.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    again = EvaluationStore(tmp_path, {})
    assert list(again.scores.values()) == SCORES[:2]
    again.add(SCORES[2:])
    assert list(EvaluationStore(tmp_path, {}).scores.values()) == SCORES


def test_a_line_that_is_no_score_is_refused_by_its_number(tmp_path: Path) -> None:
    EvaluationStore(tmp_path, {}).add(SCORES[:1])
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ConfigurationError, match=r"line 2 of .*remove that line"):
        EvaluationStore(tmp_path, {})


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    EvaluationStore(tmp_path, {"weights": "a", "seed": 0})
    with pytest.raises(ConfigurationError, match="other options or weights"):
        EvaluationStore(tmp_path, {"weights": "b", "seed": 0})


def test_time_adds_up_over_starts_however_they_end(tmp_path: Path) -> None:
    EvaluationStore(tmp_path, {}).add(SCORES)
    (line,) = (tmp_path / "times.jsonl").read_text().splitlines()
    assert 0 < json.loads(line)["seconds"] < 60
    (tmp_path / "times.jsonl").write_text('{"seconds": 100.0}\n' + line + "\n")
    store = EvaluationStore(tmp_path, {})
    first, second = store.note_time(), store.note_time()
    assert 100 < first < second < 220
    assert EvaluationStore(tmp_path, {}).note_time() > second


def test_a_time_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "times.jsonl").write_text('{"seconds": 100.0}\n{"seco')
    assert 100 < EvaluationStore(tmp_path, {}).note_time() < 160
    assert len((tmp_path / "times.jsonl").read_text().splitlines()) == 2


def test_a_token_is_found_by_method_setting_steps_subject_and_seed(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path, {})
    keys = [
        TokenKey("ti-0", 8),
        TokenKey("ti-1", 8),
        TokenKey("ti-0", 4),
        TokenKey("ti-0"),
        TokenKey("dti-0", 8),
    ]
    assert len({store.token(key, SUBJECT, seed) for key in keys for seed in (0, 1)}) == 10
