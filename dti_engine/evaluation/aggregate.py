"""From scores to results: means per subject, differences, intervals, the frontier, the aims."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean

import numpy as np

from dti_engine.config import Method
from dti_engine.evaluation.protocol import METHODS, Protocol
from dti_engine.evaluation.results import (
    Aim,
    Comparison,
    Difference,
    Frontier,
    FrontierPoint,
    LengthPoint,
    RowResult,
    Setting,
)
from dti_engine.evaluation.rows import TITLES, Kind, Row, TokenKey
from dti_engine.evaluation.statistics import (
    Array,
    bootstrap,
    gap_at_equal_subject_score,
    prompt_score_at,
    shared_levels,
)
from dti_engine.evaluation.store import Score

_COMPARED: tuple[Kind, ...] = ("ti", "ti_rescaled", "class_word", "description")
SUBJECT, PROMPT = 0, 1  # columns of `per_subject`


def per_subject(scores: Iterable[Score], row: Row, subjects: Sequence[str]) -> Array:
    """(n, 2): mean subject score and prompt score of each subject in the row, in their order.

    The order is that of `subjects` for every row, so rows of two of these arrays are a pair.
    """
    of: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for score in scores:
        if score.row == row.name and score.subject in of:
            of[score.subject].append((score.subject_score, score.prompt_score))
    return np.array([np.mean(of[name], axis=0) for name in subjects])


def mean_norm(scores: Iterable[Score], row: Row) -> float | None:
    """Mean length of the vectors that name the subjects in this row, if vectors do."""
    norms = [each.norm for each in scores if each.row == row.name and each.norm is not None]
    return fmean(norms) if norms else None


def settings(
    scores: Sequence[Score],
    tokens: Sequence[TokenKey],
    subjects: Sequence[str],
    protocol: Protocol,
) -> list[Setting]:
    """How every setting did; the best of each method is chosen, the first of equals."""
    means = {key: per_subject(scores, Row.of(key), subjects).mean(axis=0) for key in tokens}
    merit = {key: float(both.mean()) for key, both in means.items()}
    best = {
        method: max((key for key in tokens if key.method == method), key=lambda key: merit[key])
        for method in METHODS
    }
    found: list[Setting] = []
    for key in tokens:
        config = protocol.settings[key.method][key.setting]
        found.append(
            Setting(
                method=key.method,
                index=key.setting,
                lr=config.lr,
                kappa=config.kappa,
                weight_decay=config.weight_decay,
                subject_score=float(means[key][SUBJECT]),
                prompt_score=float(means[key][PROMPT]),
                norm=mean_norm(scores, Row.of(key)),
                is_chosen=key == best[key.method],
            )
        )
    return found


def row_result(
    scores: Sequence[Score], row: Row, subjects: Sequence[str], num_prompts: int
) -> RowResult:
    """The row's means with their intervals, and its means for each prompt."""
    samples = per_subject(scores, row, subjects)
    own = [score for score in scores if score.row == row.name]
    by_prompt = [[each for each in own if each.prompt == i] for i in range(num_prompts)]
    return RowResult(
        kind=row.kind,
        title=TITLES[row.kind],
        num_images=len(own),
        subject_score=bootstrap(samples[:, SUBJECT]),
        prompt_score=bootstrap(samples[:, PROMPT]),
        norm=mean_norm(scores, row),
        subject_by_prompt=[fmean(each.subject_score for each in part) for part in by_prompt],
        prompt_by_prompt=[fmean(each.prompt_score for each in part) for part in by_prompt],
    )


def differences(samples: Mapping[Kind, Array]) -> list[Difference]:
    """DTI minus each of the others, subject by subject; samples are `per_subject`."""
    found: list[Difference] = []
    for kind in _COMPARED:
        paired = samples["dti"] - samples[kind]
        found.append(
            Difference(
                other=TITLES[kind],
                subject_score=bootstrap(paired[:, SUBJECT]),
                prompt_score=bootstrap(paired[:, PROMPT]),
            )
        )
    return found


def frontier(
    scores: Sequence[Score], tokens: Mapping[Method, Sequence[TokenKey]], subjects: Sequence[str]
) -> Frontier:
    """Both methods after more and more steps, on the first image seed, which all of them have."""
    first = [score for score in scores if score.image_seed == 0]
    samples = np.stack(
        [
            np.stack([per_subject(first, Row.of(key), subjects) for key in tokens[method]], axis=1)
            for method in METHODS
        ],
        axis=1,
    )  # (subjects, methods, steps, 2)
    means = samples.mean(axis=0)
    points = [
        FrontierPoint(
            method, key.steps, float(subject), float(prompt), mean_norm(first, Row.of(key))
        )
        for method, of_method in zip(METHODS, means, strict=True)
        for key, (subject, prompt) in zip(tokens[method], of_method, strict=True)
    ]
    comparisons = [
        Comparison(
            level,
            *(prompt_score_at(of_method, level) for of_method in means),
            gap=bootstrap(samples, partial(gap_at_equal_subject_score, rank=rank)),
        )
        for rank, level in enumerate(shared_levels(*means))
    ]
    return Frontier(points, comparisons)


def lengths(
    scores: Sequence[Score], rows: Sequence[Row], subjects: Sequence[str]
) -> list[LengthPoint]:
    """What becomes of the same directions at other lengths; one of rows must have length 1."""
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


def aims(samples: Mapping[Kind, Array], frontier: Frontier) -> list[Aim]:
    """What the project promises of DTI on the miniature."""
    dti, floor, ceiling = (samples[kind] for kind in ("dti", "class_word", "drawing"))
    highest = frontier.highest
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
