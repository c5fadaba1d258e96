"""Results from scores made by hand."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from dti_engine.config import Method
from dti_engine.evaluation import aggregate as figures
from dti_engine.evaluation.protocol import Protocol
from dti_engine.evaluation.results import Aim, Frontier
from dti_engine.evaluation.rows import Kind, Row, TokenKey, frontier_tokens, settings_tokens
from dti_engine.evaluation.statistics import Array, Estimate
from dti_engine.evaluation.store import Score

NAMES = ["a", "b", "c"]


def scores(row: Row, subject: float, prompt: float, *, norm: float = 1.0) -> Iterable[Score]:
    """2 prompts and 2 image seeds of each subject; b scores 0.1 more than a, c 0.2 more."""
    for number, name in enumerate(NAMES):
        for index in (0, 1):
            for seed in (0, 1):
                yield Score(
                    image=f"{row.name}/{name}/{index}-{seed}",
                    row=row.name,
                    subject=name,
                    prompt=index,
                    training_seed=0,
                    image_seed=seed,
                    subject_score=subject + 0.1 * number + (0.05 if seed else -0.05),
                    prompt_score=prompt + 0.1 * number + (0.2 if index else -0.2),
                    norm=norm,
                )


def test_samples_keep_the_order_of_the_subjects() -> None:
    row = Row.of(TokenKey("dti", 0, 8))
    found = figures.per_subject([*scores(row, 0.3, 0.5), *scores(Row("drawing"), 0, 0)], row, NAMES)
    np.testing.assert_allclose(found, [[0.3, 0.5], [0.4, 0.6], [0.5, 0.7]])
    swapped = figures.per_subject(reversed([*scores(row, 0.3, 0.5)]), row, NAMES[::-1])
    np.testing.assert_allclose(swapped, found[::-1])


def test_a_row_tells_means_and_what_each_prompt_did() -> None:
    row = Row.of(TokenKey("dti", 0, 8))
    found = figures.row_result([*scores(row, 0.3, 0.5, norm=2.0)], row, NAMES, num_prompts=2)
    assert found.subject_score.value == pytest.approx(0.4)
    assert found.subject_score.low < 0.4 < found.subject_score.high
    assert found.prompt_by_prompt == pytest.approx([0.4, 0.8])
    assert found.subject_by_prompt == pytest.approx([0.4, 0.4])
    assert (found.norm, found.num_images) == (2.0, 12)


def test_the_best_mean_of_both_scores_is_chosen_for_each_method() -> None:
    protocol = Protocol.standard(num_settings=2)
    tokens = settings_tokens(protocol)
    of_tokens = [(0.3, 0.9), (0.6, 0.7), (0.8, 0.2), (0.5, 0.4)]  # dti, dti, ti, ti
    found = figures.settings(
        [
            each
            for key, both in zip(tokens, of_tokens, strict=True)
            for each in scores(Row.of(key), *both)
        ],
        tokens,
        NAMES,
        protocol,
    )
    assert [(each.method, each.index) for each in found if each.is_chosen] == [
        ("dti", 1),
        ("ti", 0),
    ]
    assert [each.lr for each in found] == [0.03, 0.01, 5e-3, 2e-2]
    assert [each.merit for each in found] == pytest.approx([0.7, 0.75, 0.6, 0.55])


def test_differences_are_paired_by_subject() -> None:
    samples: dict[Kind, Array] = {
        kind: np.array([[0.3, 0.5], [0.4, 0.6], [0.5, 0.7]])
        for kind in ("ti", "ti_rescaled", "class_word", "description")
    }
    samples["dti"] = samples["ti"] + [0.1, -0.2]
    for each in figures.differences(samples):
        found = each.subject_score
        assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))
        assert each.prompt_score.high == pytest.approx(-0.2)


def test_lengths_are_compared_with_m_star_by_subject() -> None:
    token = TokenKey("dti", 0, 8)
    rows = [Row("lengthened", token, length) for length in (1.0, 8.0)]
    of_rows = [(0.5, 0.7), (0.4, 0.3)]
    found = figures.lengths(
        [score for row, both in zip(rows, of_rows, strict=True) for score in scores(row, *both)],
        rows,
        NAMES,
    )
    assert [each.length for each in found] == [1.0, 8.0]
    assert found[1].subject_score.value == pytest.approx(0.5)
    assert found[1].prompt_score.value == pytest.approx(0.4)
    assert found[0].drop == Estimate(0, 0, 0)
    assert found[1].drop.low == pytest.approx(-0.4)  # the same of every subject
    assert found[1].drop.high == pytest.approx(-0.4)


def of_frontier(of: Mapping[Method, Sequence[tuple[float, float]]]) -> Frontier:
    """The frontier of methods with these scores after 1, 2 and so on steps."""
    protocol = Protocol.standard(steps=len(of["dti"]))
    tokens = frontier_tokens(protocol, {"dti": 0, "ti": 0})
    found = [
        score
        for method, keys in tokens.items()
        for key, both in zip(keys, of[method], strict=True)
        for score in scores(Row.of(key), *both)
    ]
    return figures.frontier(found, tokens, NAMES)


def test_methods_are_compared_at_all_that_the_weaker_one_reaches_on_the_first_image_seed() -> None:
    found = of_frontier({"dti": [(0.2, 0.5), (0.4, 0.4)], "ti": [(0.1, 0.5), (0.3, 0.2)]})
    # Of a, b and c the mean is 0.1 more; the first image seed has 0.05 less.
    assert [each.subject_score for each in found.points] == pytest.approx([0.25, 0.45, 0.15, 0.35])
    assert [(each.method, each.steps) for each in found.points] == [
        ("dti", 1), ("dti", 2), ("ti", 1), ("ti", 2),
    ]  # fmt: skip
    low, high = found.comparisons
    assert (low.level, high.level) == pytest.approx((0.15, 0.35))
    assert (low.dti_prompt_score, low.ti_prompt_score) == pytest.approx((0.6, 0.6))
    assert (high.dti_prompt_score, high.ti_prompt_score) == pytest.approx((0.55, 0.3))
    assert (low.gap.low, low.gap.value, low.gap.high) == pytest.approx((0, 0, 0))
    assert (high.gap.low, high.gap.value, high.gap.high) == pytest.approx((0.25,) * 3)
    assert found.highest == high


def test_aims_compare_with_floor_ceiling_and_frontier() -> None:
    samples: dict[Kind, Array] = {
        "class_word": np.array([[0.2, 1.0], [0.2, 0.9]]),
        "drawing": np.array([[0.8, 1.0], [0.8, 1.0]]),
        "dti": np.array([[0.55, 0.8], [0.65, 0.8]]),
    }
    found = figures.aims(samples, of_frontier({"dti": [(0.5, 0.3)] * 2, "ti": [(0.5, 0.4)] * 2}))
    assert [(each.reached, each.needed) for each in found[:2]] == [
        (pytest.approx(0.6), pytest.approx(0.5)),
        (pytest.approx(0.8), pytest.approx(0.855)),
    ]
    assert [each.verdict for each in found] == ["met", "not met", "not met"]
    assert [each.is_strict for each in found] == [False, False, True]


@pytest.mark.parametrize(
    ("margin", "verdict"),
    [
        (Estimate(0.2, 0.1, 0.3), "met"),
        (Estimate(0.2, -0.1, 0.3), "met, uncertain"),
        (Estimate(-0.2, -0.3, 0.1), "not met, uncertain"),
        (Estimate(-0.2, -0.3, -0.1), "not met"),
    ],
)
def test_a_verdict_says_when_it_might_be_chance(margin: Estimate, verdict: str) -> None:
    assert Aim("", 0.0, 0.0, margin).verdict == verdict


def test_at_least_is_met_by_as_much_and_above_is_not() -> None:
    equal = Estimate(0.0, 0.0, 0.0)
    assert Aim("at least", 0.5, 0.5, equal).verdict == "met"
    assert Aim("above", 0.5, 0.5, equal, is_strict=True).verdict == "not met"
