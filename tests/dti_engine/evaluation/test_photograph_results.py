"""Figures are means over images, and differences are paired by subject."""

import numpy as np
import pytest

from dti_engine.evaluation.aggregate import MASKED, differences, per_subject
from dti_engine.evaluation.rows import (
    TableRow,
    parse_methods,
    photograph_configs,
    photograph_rows,
)
from dti_engine.evaluation.store import ImageScore
from dti_engine.recipes import cross_init, sd, standard_ti

DTI = TableRow("dti", "dti", "DTI")


def _score(row: str, subject: str, number: int, value: float, *, masked: bool = True) -> ImageScore:
    return ImageScore(
        image=f"{row}/{subject}/{number}",
        row=row,
        subject=subject,
        prompt=number,
        training_seed=0,
        image_seed=0,
        masked_subject_score=value if masked else None,
        subject_score=value / 2,
        prompt_score=value / 4,
        prompt_cosine=-value,
    )


def test_every_image_has_the_same_weight_in_any_batch() -> None:
    values = [0.9] * 8 + [0.1]  # batches of 8 by means of batches: (0.9 + 0.1) / 2
    scores = [_score("dti", "rex", number, value) for number, value in enumerate(values)]
    ((plain, prompt, masked, cosine),) = per_subject(scores, DTI, ["rex"])
    mean = (8 * 0.9 + 0.1) / 9
    assert (masked, plain, prompt, cosine) == pytest.approx((mean, mean / 2, mean / 4, -mean))


def test_without_masks_there_is_no_masked_figure() -> None:
    scores = [_score("dti", "rex", 0, 0.5, masked=False)]
    assert np.isnan(per_subject(scores, DTI, ["rex"])[0, MASKED])


def test_differences_are_of_each_subject_with_itself() -> None:
    dti, ti = photograph_rows(["ti", "dti"], [])[::-1]
    base = np.array([[0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9], [0.4, 0.4, 0.4, 0.4]])
    (found,) = differences({dti: base + 0.05, ti: base}, is_masked=True)
    assert (found.row, found.other) == ("DTI", "TI")
    assert found.subject_score.value == pytest.approx(0.05)
    assert found.subject_score.high - found.subject_score.low < 1e-9


def test_rows_share_the_token_that_they_have_in_common() -> None:
    rows = photograph_rows(parse_methods(["dti", "cross-init", "ti-rescaled", "word", "ti"]), [])
    assert [row.name for row in rows] == ["word", "ti", "ti-rescaled", "cross-init", "dti"]
    configs = photograph_configs(rows, sd(), [])
    assert configs == {"ti": standard_ti(sd()), "cross-init": cross_init(sd()), "dti": sd()}


def test_each_kappa_is_a_row_with_a_token_of_its_own() -> None:
    rows = photograph_rows(["dti"], [5e-5, 1e-4, 5e-5])
    assert [row.title for row in rows] == ["DTI, κ = 5e-05", "DTI, κ = 0.0001"]
    configs = photograph_configs(rows, sd(), [5e-5, 1e-4])
    assert [configs[row.token.name].kappa for row in rows if row.token] == [5e-5, 1e-4]
