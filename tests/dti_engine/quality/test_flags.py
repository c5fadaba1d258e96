"""Odd tokens stand out, and ordinary ones do not."""

from dataclasses import replace

import numpy as np
import pytest

from dti_engine.quality.flags import TokenStatistics, outlier_flags

GOOD = TokenStatistics(
    prior_angle_deg=60.0,
    norms=[0.4],
    norm_ranges=[(0.3, 0.5)],
    first_fixed_loss=0.3,
    fixed_loss=0.2,
    initializer="dog",
    subject_score=0.7,
    prompt_score=0.95,
    word_subject_score=0.3,
)


def run_of(count: int, **changes: object) -> dict[str, TokenStatistics]:
    """Tokens that differ by a little, as subjects do; the first one as told."""
    random = np.random.default_rng(1)
    tokens = {
        f"subject-{i}": replace(
            GOOD,
            prior_angle_deg=60 + 3 * random.standard_normal(),
            subject_score=0.7 + 0.05 * random.standard_normal(),
            prompt_score=0.95 + 0.02 * random.standard_normal(),
        )
        for i in range(count)
    }
    tokens["subject-0"] = replace(tokens["subject-0"], **changes)
    return tokens


def test_an_ordinary_run_has_no_flags() -> None:
    assert not any(outlier_flags(run_of(200)).values())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fixed_loss": 0.3}, "learned nothing: its loss was 0.3000 at first and is 0.3000"),
        ({"prior_angle_deg": 1.1}, "has hardly turned from 'dog': by 1.1°"),
        ({"norms": [0.6]}, "its length is 0.600, 99 % of words lie in 0.300 .. 0.500"),
        ({"norms": [0.1]}, "its length is 0.100"),
        (
            {"word_subject_score": 0.9},
            "no more like it (0.70) than those of 'dog' (0.90)",
        ),
    ],
)
def test_checks_of_single_tokens_apply_to_a_run_of_one(
    changes: dict[str, object], reason: str
) -> None:
    (found,) = outlier_flags({"rex": replace(GOOD, **changes)}).values()
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject_score": 0.4}, "subject score 0.40, the others 0."),
        ({"prompt_score": 0.6}, "prompt score 0.60, the others 0."),
        ({"prior_angle_deg": 20.0}, "turned by 20°, the others by"),
        ({"prior_angle_deg": 95.0}, "turned by 95°"),
    ],
)
def test_a_token_far_from_the_others_is_flagged_and_they_are_not(
    changes: dict[str, object], reason: str
) -> None:
    found = outlier_flags(run_of(30, **changes))
    assert [name for name, reasons in found.items() if reasons] == ["subject-0"]
    assert reason in found["subject-0"][0]


def test_a_score_far_above_the_others_is_no_fault() -> None:
    assert not any(outlier_flags(run_of(30, subject_score=1.0, prompt_score=1.0)).values())


def test_few_tokens_are_not_compared_with_each_other() -> None:
    assert not any(outlier_flags(run_of(5, subject_score=0.4)).values())
    assert outlier_flags(run_of(6, subject_score=0.31))["subject-0"]


def test_nearly_equal_tokens_are_not_flagged() -> None:
    tokens = {f"{i}": GOOD for i in range(20)} | {"odd": replace(GOOD, subject_score=0.65)}
    assert not any(outlier_flags(tokens).values())


def test_without_scores_the_rest_is_still_looked_at() -> None:
    bare = replace(GOOD, subject_score=None, prompt_score=None, word_subject_score=None)
    tokens = {f"{i}": bare for i in range(20)}
    assert not any(outlier_flags(tokens).values())
    tokens["odd"] = replace(bare, prior_angle_deg=6.0, fixed_loss=0.31)
    assert len(outlier_flags(tokens)["odd"]) == 2


def test_scores_are_compared_among_the_same_prompts_and_angles_among_the_same_training() -> None:
    own = {"training": "its own", "prior_angle_deg": 6.0}
    assert outlier_flags(run_of(30, **own))["subject-0"] == []
    (reason,) = outlier_flags(run_of(30, **own, subject_score=0.35))["subject-0"]
    assert reason.startswith("subject score 0.35")
    assert outlier_flags(run_of(30, family="style", subject_score=0.35))["subject-0"] == []
