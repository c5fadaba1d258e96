"""Aggregation of image scores into results: means per subject, intervals, differences, aims."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean

import numpy as np

from dti_engine.config import Method
from dti_engine.evaluation.protocol import METHODS, MiniatureProtocol
from dti_engine.evaluation.results import (
    Aim,
    Comparison,
    Frontier,
    FrontierPoint,
    LengthPoint,
    RowDifference,
    RowResult,
    SettingResult,
)
from dti_engine.evaluation.rows import TableRow
from dti_engine.evaluation.statistics import (
    Array,
    Estimate,
    bootstrap,
    gap_at_equal_subject_score,
    prompt_score_at,
    shared_levels,
)
from dti_engine.evaluation.store import ImageScore

METRICS = ("subject_score", "prompt_score", "masked_subject_score", "prompt_cosine")
SUBJECT, PROMPT, MASKED, COSINE = range(4)  # columns of `per_subject`
_BOTH = [SUBJECT, PROMPT]


def per_subject(scores: Sequence[ImageScore], row: TableRow, subjects: Sequence[str]) -> Array:
    """Return (subjects, 4): each of METRICS, the mean over all images of the subject in the row.

    Subjects keep the order of `subjects`, so the rows of two such arrays are pairs. A metric that
    was not measured is nan.
    """
    values: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for score in scores:
        if score.row == row.name and score.subject in values:
            measured = [getattr(score, metric) for metric in METRICS]
            values[score.subject].append([np.nan if each is None else each for each in measured])
    return np.array([np.mean(values[name], axis=0) for name in subjects])


def row_result(
    row: TableRow,
    scores: Sequence[ImageScore],
    subjects: Sequence[str],
    *,
    lengths: Mapping[str, float],
    num_prompts: int = 0,
) -> RowResult:
    """Return the row's means with their intervals.

    With `num_prompts`, which all subjects must share, also the means of each prompt.

    Raises:
        ConfigurationError: There are fewer than 2 subjects.
    """
    samples = per_subject(scores, row, subjects)
    own = [score for score in scores if score.row == row.name]
    by_prompt = [[score for score in own if score.prompt == i] for i in range(num_prompts)]
    return RowResult(
        kind=row.kind,
        name=row.name,
        title=row.title,
        num_images=len(own),
        subject_score=bootstrap(samples[:, SUBJECT]),
        prompt_score=bootstrap(samples[:, PROMPT]),
        masked_subject_score=_measured(samples[:, MASKED]),
        prompt_cosine=_measured(samples[:, COSINE]),
        lengths=lengths,
        subject_by_prompt=[fmean(score.subject_score for score in part) for part in by_prompt],
        prompt_by_prompt=[fmean(score.prompt_score for score in part) for part in by_prompt],
    )


def _measured(samples: Array) -> Estimate | None:
    return None if np.isnan(samples).any() else bootstrap(samples)


def differences(
    samples: Mapping[TableRow, Array], *, is_masked: bool = False
) -> list[RowDifference]:
    """Return every DTI row minus every other row but the ceiling; samples are `per_subject`."""
    subject = MASKED if is_masked else SUBJECT
    found: list[RowDifference] = []
    for ours in samples:
        for other in samples:
            # Without the ceiling, which no method is meant to pass.
            if ours.kind == "dti" and other.kind not in ("dti", "drawing"):
                paired = samples[ours] - samples[other]
                found.append(
                    RowDifference(
                        ours.title,
                        other.title,
                        subject_score=bootstrap(paired[:, subject]),
                        prompt_score=bootstrap(paired[:, PROMPT]),
                    )
                )
    return found


# The miniature


def settings(
    scores: Sequence[ImageScore],
    rows: Mapping[Method, Sequence[TableRow]],
    subjects: Sequence[str],
    protocol: MiniatureProtocol,
    lengths: Mapping[TableRow, Mapping[str, float]],
) -> list[SettingResult]:
    """Return all settings; each method's best is chosen, the first of equals."""
    found: list[SettingResult] = []
    for method in METHODS:
        means = [per_subject(scores, row, subjects).mean(axis=0) for row in rows[method]]
        criteria = [float(mean[_BOTH].mean()) for mean in means]
        for index, (row, mean) in enumerate(zip(rows[method], means, strict=True)):
            config = protocol.settings[method][index]
            found.append(
                SettingResult(
                    method=method,
                    index=index,
                    lr=config.lr,
                    kappa=config.kappa,
                    weight_decay=config.weight_decay,
                    subject_score=float(mean[SUBJECT]),
                    prompt_score=float(mean[PROMPT]),
                    lengths=lengths[row],
                    is_chosen=index == criteria.index(max(criteria)),
                )
            )
    return found


def frontier(
    scores: Sequence[ImageScore],
    rows: Mapping[Method, Sequence[TableRow]],
    subjects: Sequence[str],
    lengths: Mapping[TableRow, Mapping[str, float]],
) -> Frontier:
    """Return both methods after increasing numbers of steps.

    Only the first image seed counts, because the snapshots have no other.
    """
    first = [score for score in scores if score.image_seed == 0]
    samples = np.stack(
        [
            np.stack([per_subject(first, row, subjects)[:, _BOTH] for row in rows[method]], axis=1)
            for method in METHODS
        ],
        axis=1,
    )  # (subjects, methods, steps, 2)
    means = samples.mean(axis=0)
    points: list[FrontierPoint] = []
    for method, of_method in zip(METHODS, means, strict=True):
        for row, (subject, prompt) in zip(rows[method], of_method, strict=True):
            assert row.token
            assert row.token.steps
            points.append(
                FrontierPoint(method, row.token.steps, float(subject), float(prompt), lengths[row])
            )
    comparisons = [
        Comparison(
            level,
            *(prompt_score_at(of_method, level) for of_method in means),
            # The level is found anew in each resample, so the interval includes its uncertainty.
            gap=bootstrap(samples, partial(gap_at_equal_subject_score, rank=rank)),
        )
        for rank, level in enumerate(shared_levels(*means))
    ]
    return Frontier(points, comparisons)


def length_points(
    scores: Sequence[ImageScore], rows: Sequence[TableRow], subjects: Sequence[str]
) -> list[LengthPoint]:
    """Return the scores of the same directions at other lengths; one row must have length 1."""
    samples = {row.length: per_subject(scores, row, subjects) for row in rows if row.length}
    return [
        LengthPoint(
            length,
            bootstrap(both[:, SUBJECT]),
            bootstrap(both[:, PROMPT]),
            drop=bootstrap((both - samples[1.0])[:, PROMPT]),
        )
        for length, both in samples.items()
    ]


def aims(samples: Mapping[str, Array], frontier: Frontier) -> list[Aim]:
    """Return what the project promises of DTI on the miniature; samples: kind -> `per_subject`."""
    dti, floor, ceiling = (samples[kind] for kind in ("dti", "class_word", "drawing"))
    highest = frontier.highest
    # Per subject, so that the margin below is a paired difference.
    half_way = (floor + ceiling)[:, SUBJECT] / 2
    most_of_it = 0.9 * floor[:, PROMPT]
    return [
        _aim("Subject score: at least half-way from floor to ceiling", dti[:, SUBJECT], half_way),
        _aim("Prompt score: at least 0.9 of the class word's", dti[:, PROMPT], most_of_it),
        Aim(
            f"Prompt score: above TI's at the subject score {highest.level:.2f}, the highest that "
            "both reach",
            highest.dti_prompt_score,
            highest.ti_prompt_score,
            highest.gap,
            is_strict=True,
        ),
    ]


def _aim(text: str, reached: Array, needed: Array) -> Aim:
    return Aim(text, float(reached.mean()), float(needed.mean()), bootstrap(reached - needed))
