"""Results from scores made by hand."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from dti_engine.config import Method
from dti_engine.evaluation import aggregate
from dti_engine.evaluation.protocol import MiniatureProtocol
from dti_engine.evaluation.results import Aim, Frontier
from dti_engine.evaluation.rows import (
    TableRow,
    TokenKey,
    frontier_rows,
    settings_rows,
    token_row,
    untrained_row,
)
from dti_engine.evaluation.statistics import Array, Estimate
from dti_engine.evaluation.store import ImageScore

NAMES = ["a", "b", "c"]
DTI = token_row("dti", TokenKey("dti-0", 8))


def scores(row: TableRow, subject: float, prompt: float) -> Iterable[ImageScore]:
    """2 prompts and 2 image seeds of each subject; b scores 0.1 more than a, c 0.2 more."""
    for number, name in enumerate(NAMES):
        for index in (0, 1):
            for seed in (0, 1):
                yield ImageScore(
                    image=f"{row.name}/{name}/{index}-{seed}",
                    row=row.name,
                    subject=name,
                    prompt=index,
                    training_seed=0,
                    image_seed=seed,
                    subject_score=subject + 0.1 * number + (0.05 if seed else -0.05),
                    prompt_score=prompt + 0.1 * number + (0.2 if index else -0.2),
                )


def test_samples_keep_the_order_of_the_subjects() -> None:
    drawing = untrained_row("drawing")
    found = aggregate.per_subject([*scores(DTI, 0.3, 0.5), *scores(drawing, 0, 0)], DTI, NAMES)
    np.testing.assert_allclose(found[:, :2], [[0.3, 0.5], [0.4, 0.6], [0.5, 0.7]])
    assert np.isnan(found[:, 2:]).all()  # metrics of photographs
    swapped = aggregate.per_subject([*scores(DTI, 0.3, 0.5)][::-1], DTI, NAMES[::-1])
    np.testing.assert_allclose(swapped, found[::-1])


def test_a_row_has_means_and_the_scores_of_each_prompt() -> None:
    found = aggregate.row_result(
        DTI, [*scores(DTI, 0.3, 0.5)], NAMES, lengths={"a": 2.0}, num_prompts=2
    )
    assert found.subject_score.value == pytest.approx(0.4)
    assert found.subject_score.low < 0.4 < found.subject_score.high
    assert found.prompt_by_prompt == pytest.approx([0.4, 0.8])
    assert found.subject_by_prompt == pytest.approx([0.4, 0.4])
    assert (found.lengths, found.num_images) == ({"a": 2.0}, 12)
    assert found.masked_subject_score is None


def test_the_best_mean_of_both_scores_is_chosen_for_each_method() -> None:
    protocol = MiniatureProtocol.standard(num_settings=2)
    by_method = settings_rows(protocol)
    rows = [row for of_method in by_method.values() for row in of_method]
    of_rows = [(0.3, 0.9), (0.6, 0.7), (0.8, 0.2), (0.5, 0.4)]  # dti, dti, ti, ti
    found = aggregate.settings(
        [each for row, both in zip(rows, of_rows, strict=True) for each in scores(row, *both)],
        by_method,
        NAMES,
        protocol,
        {row: {} for row in rows},
    )
    assert [(each.method, each.index) for each in found if each.is_chosen] == [
        ("dti", 1),
        ("ti", 0),
    ]
    assert [each.lr for each in found] == [0.03, 0.01, 5e-3, 2e-2]
    assert [each.criterion for each in found] == pytest.approx([0.7, 0.75, 0.6, 0.55])


def test_differences_are_paired_by_subject() -> None:
    ti = token_row("ti", TokenKey("ti-0", 8))
    base = np.array([[0.3, 0.5], [0.4, 0.6], [0.5, 0.7]])
    rows = [ti, *map(untrained_row, ("class_word", "description", "drawing"))]
    samples = {row: base for row in rows} | {DTI: base + np.array([0.1, -0.2])}
    found = aggregate.differences(samples)
    assert [each.other for each in found] == [row.title for row in rows[:-1]]  # not the ceiling
    for each in found:
        gap = each.subject_score
        assert (gap.low, gap.value, gap.high) == pytest.approx((0.1, 0.1, 0.1))
        assert each.prompt_score.high == pytest.approx(-0.2)


def test_lengths_are_compared_with_m_star_by_subject() -> None:
    token = TokenKey("dti-0", 8)
    rows = [token_row("lengthened", token, length) for length in (1.0, 8.0)]
    of_rows = [(0.5, 0.7), (0.4, 0.3)]
    found = aggregate.length_points(
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
    """Return the frontier of methods with these scores after 1, 2 and so on steps."""
    protocol = MiniatureProtocol.standard(steps=len(of["dti"]))
    rows = frontier_rows(protocol, {"dti": 0, "ti": 0})
    found = [
        score
        for method, of_method in rows.items()
        for row, both in zip(of_method, of[method], strict=True)
        for score in scores(row, *both)
    ]
    lengths = {row: {} for of_method in rows.values() for row in of_method}
    return aggregate.frontier(found, rows, NAMES, lengths)


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
    samples: dict[str, Array] = {
        "class_word": np.array([[0.2, 1.0], [0.2, 0.9]]),
        "drawing": np.array([[0.8, 1.0], [0.8, 1.0]]),
        "dti": np.array([[0.55, 0.8], [0.65, 0.8]]),
    }
    found = aggregate.aims(samples, of_frontier({"dti": [(0.5, 0.3)] * 2, "ti": [(0.5, 0.4)] * 2}))
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
