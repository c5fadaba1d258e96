"""Figures with their uncertainty, by resampling subjects, and prompt scores at equal subject score.

A sample is all that was measured of one subject. What is compared inside a sample is paired: its
rows saw the same photos, prompts and noise. Knows nothing of rows, images or models.

Tables and figures of the report, in markdown.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dti_engine.errors import ConfigurationError

Array: TypeAlias = NDArray[np.float64]

FEW_SAMPLES = 6  # below that, intervals are markedly too short, see `bootstrap`
_NUM_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval, bounds included."""

    value: float
    low: float
    high: float


def bootstrap(
    samples: Array,
    figure: Callable[[Array], float] = float,
    *,
    seed: int = 0,
    num_resamples: int = _NUM_RESAMPLES,
) -> Estimate:
    """`figure` of the mean of samples (n, ...), one per subject, with its 95 % interval.

    Expanded percentiles, as plain ones are too short with few subjects: they hold the mean of a
    normal variable 94 times in 100 with 12 subjects (plain: 91), 93 with 6 (85), 87 with 4 (79).

    Raises: ConfigurationError if there are fewer than 2 samples.
    Source: Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.1.
    """
    count = len(samples)
    if count < 2:
        raise ConfigurationError(
            f"an interval over subjects needs at least 2 of them, got {count}; evaluate more"
        )
    chosen = np.random.default_rng(seed).integers(count, size=(num_resamples, count))
    values = [figure(mean) for mean in samples[chosen].mean(axis=1)]
    tail = NormalDist().cdf(math.sqrt(count / (count - 1)) * student_quantile(0.025, count - 1))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(figure(samples.mean(axis=0)), float(low), float(high))


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution; exact for 1 and 2 degrees of freedom.

    Else to 2 % at probability 0.025, and far better from 6 degrees of freedom on.

    Source: Abramowitz and Stegun, 26.7.5.
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def prompt_score_at(points: Array, level: float) -> float:
    """The highest prompt score of a method among what reaches the subject score `level`.

    points (k, 2) are its (subject score, prompt score) after more and more steps, joined by
    straight lines; -inf if none reaches the level.
    """
    joined: list[tuple[float, float]] = points.tolist()
    reached = [prompt for subject, prompt in joined if subject >= level]
    crossings = [
        prompt + (next_prompt - prompt) * (level - subject) / (next_subject - subject)
        for (subject, prompt), (next_subject, next_prompt) in pairwise(joined)
        if (subject < level) != (next_subject < level)
    ]
    return max(reached + crossings, default=-math.inf)


def shared_levels(ours: Array, theirs: Array) -> list[float]:
    """Subject scores that both of two methods reach: all of the one that reaches less, ascending.

    points as `prompt_score_at`.
    """
    weaker = min(ours[:, 0], theirs[:, 0], key=np.max)
    return sorted(weaker.tolist())


def gap_at_equal_subject_score(methods: Array, *, rank: int = -1) -> float:
    """How far the first method's prompt score lies above the second's, at one of `shared_levels`.

    methods (2, k, 2): the points of both, as `prompt_score_at`; rank -1 is the highest level.
    """
    level = shared_levels(*methods)[rank]
    ours, theirs = (prompt_score_at(points, level) for points in methods)
    return ours - theirs


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """`0.71 [0.65, 0.76]`"""
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def length(norm: float | None, magnitude: float) -> str:
    """`0.412 (1.3 m*)`; nothing for what has no length."""
    return "" if norm is None else f"{norm:.3f} ({norm / magnitude:.1f} m*)"
