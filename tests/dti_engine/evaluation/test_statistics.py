"""Intervals against known coverage; frontiers drawn by hand."""

import math

import numpy as np
import pytest

from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.statistics import (
    bootstrap,
    gap_at_equal_subject_score,
    prompt_score_at,
    shared_levels,
)


def test_intervals_of_a_mean_hold_the_truth_about_94_times_in_100() -> None:
    random = np.random.default_rng(0)
    num_held, num_experiments = 0, 300
    for seed in range(num_experiments):
        samples = random.normal(3.0, 2.0, size=8)
        found = bootstrap(samples, seed=seed, num_resamples=500)
        num_held += found.low <= 3.0 <= found.high
    # Plain percentiles hold it 88 times in 100. The standard deviation of this figure is 1.4.
    assert 0.91 <= num_held / num_experiments <= 0.97


def test_a_skewed_figure_gets_an_interval_that_is_longer_on_its_long_side() -> None:
    samples = np.random.default_rng(3).lognormal(0.0, 1.2, size=12)
    found = bootstrap(samples)
    assert found.high - found.value > 1.2 * (found.value - found.low)


def test_pairing_removes_the_variance_between_subjects() -> None:
    random = np.random.default_rng(0)
    hard_and_easy = random.normal(0.0, 10.0, size=12)
    one = hard_and_easy + 1 + random.normal(0.0, 0.1, size=12)
    second = hard_and_easy + random.normal(0.0, 0.1, size=12)
    paired = bootstrap(one - second)
    unpaired = bootstrap(one)
    assert 0.8 < paired.low < paired.value < paired.high < 1.2
    assert unpaired.low < 0 < unpaired.high


def test_resampling_keeps_the_values_of_a_subject_together() -> None:
    samples = np.stack([np.arange(10.0), np.arange(10.0) + 5], axis=1)
    found = bootstrap(samples, lambda mean: float(mean[1] - mean[0]))
    assert (found.low, found.value, found.high) == pytest.approx((5.0, 5.0, 5.0))


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    samples = np.random.default_rng(0).normal(size=8)
    first, same, other = (bootstrap(samples, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first.low != other.low


def test_one_subject_has_no_interval() -> None:
    with pytest.raises(ConfigurationError, match="at least 2 subjects, got 1"):
        bootstrap(np.array([1.0]))


LINE = np.array([[0.2, 1.0], [0.4, 0.8], [0.6, 0.4]])


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0.1, 1.0), (0.2, 1.0), (0.3, 0.9), (0.4, 0.8), (0.5, 0.6), (0.6, 0.4), (0.7, -math.inf)],
)
def test_a_prompt_score_is_read_off_the_line(level: float, expected: float) -> None:
    assert prompt_score_at(LINE, level) == pytest.approx(expected)


def test_of_several_ways_to_reach_a_level_the_best_counts() -> None:
    back_again = np.array([[0.2, 0.5], [0.6, 0.7], [0.4, 0.9]])
    assert prompt_score_at(back_again, 0.3) == pytest.approx(0.9)
    assert prompt_score_at(back_again, 0.5) == pytest.approx(0.8)


def test_a_gap_is_taken_where_the_weaker_method_ends() -> None:
    one = np.array([[0.3, 0.9], [0.7, 0.7]])
    assert shared_levels(one, LINE) == shared_levels(LINE, one) == [0.2, 0.4, 0.6]
    assert gap_at_equal_subject_score(np.stack([one, LINE[1:]])) == pytest.approx(0.75 - 0.4)
    assert gap_at_equal_subject_score(np.stack([LINE[1:], one])) == pytest.approx(0.4 - 0.75)


def test_a_gap_at_a_lower_level_is_taken_where_the_weaker_method_was_before() -> None:
    one = np.array([[0.3, 0.9], [0.7, 0.7]])
    both = np.stack([one, LINE[1:]])
    assert gap_at_equal_subject_score(both, rank=0) == pytest.approx(0.85 - 0.8)
    assert gap_at_equal_subject_score(both, rank=1) == gap_at_equal_subject_score(both)
