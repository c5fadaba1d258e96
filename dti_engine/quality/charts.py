"""The plots of a run's report."""

from collections.abc import Sequence
from statistics import median
from typing import TypeVar

from dti_engine.pages.plots import Dot, Group, Thread, distribution, scatter, threads
from dti_engine.quality.rows import Row
from dti_engine.quality.summary import Summary

T = TypeVar("T")

MAX_CURVES = 200  # drawn: more are a blot, and megabytes
_MAX_POINTS = 60  # of a curve
_PASSED, _FLAGGED = ("not flagged", "line-1"), ("flagged", "flag")


def anchor(summary: Summary) -> dict[str, str]:
    """Name -> where its row stands in the page."""
    return {each.name: f"row-{place}" for place, each in enumerate(summary.rows, start=1)}


def score_plot(summary: Summary) -> str | None:
    """Subject score against prompt score; None if nothing was scored."""
    places = anchor(summary)

    def dots(rows: Sequence[Row]) -> list[Dot]:
        return [
            Dot(
                each.subject_score,
                each.prompt_score,
                f"{each.name}: subject {each.subject_score:.2f}, prompt {each.prompt_score:.2f}",
                f"#{places[each.name]}",
            )
            for each in rows
            if each.subject_score is not None and each.prompt_score is not None
        ]

    passed, flagged = (dots(rows) for rows in _parted(summary.learned))
    groups = [Group(*_PASSED, passed), Group(*_FLAGGED, flagged)]
    if not passed and not flagged:
        return None
    return scatter(_filled(groups), x_label="subject score", y_label="prompt score")


def angle_plot(summary: Summary) -> str | None:
    """How far tokens have turned; None if no angle is known."""
    passed, flagged = (
        [each.prior_angle_deg for each in rows if each.prior_angle_deg is not None]
        for rows in _parted(summary.learned)
    )
    groups = [Group(*_PASSED, passed), Group(*_FLAGGED, flagged)]
    if not passed and not flagged:
        return None
    return distribution(_filled(groups), x_label="angle to the prior (degrees)", y_label="subjects")


def loss_plot(summary: Summary) -> str | None:
    """Fixed losses on the way, as shares of the first; None if none is known."""
    places = anchor(summary)
    shares = {each.name: share for each in summary.learned if (share := _shares(each))}
    if not shares:
        return None

    def drawn(rows: Sequence[Row]) -> list[Thread]:
        return [
            Thread(
                _thinned(shares[each.name], _MAX_POINTS),
                f"{each.name}: {shares[each.name][-1][1]:.0%} of its first loss",
                f"#{places[each.name]}",
            )
            for each in rows
            if each.name in shares
        ]

    passed, flagged = (drawn(rows) for rows in _parted(summary.learned))
    flagged = _thinned(flagged, MAX_CURVES // 2)
    passed = _thinned(passed, MAX_CURVES - len(flagged))
    groups = [Group(*_PASSED, passed), Group(*_FLAGGED, flagged)]
    return threads(
        _filled(groups), _middle(list(shares.values())), y_label="fixed loss, share of its first"
    )


def _parted(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Those that are not flagged, and those that are."""
    flagged = [each for each in rows if each.flags]
    return [each for each in rows if not each.flags], flagged


def _filled(groups: Sequence[Group[T]]) -> list[Group[T]]:
    return [each for each in groups if each.members]


def _shares(found: Row) -> list[tuple[float, float]]:
    first = found.first_fixed_loss
    return [(step, loss / first) for step, loss in found.curve] if first else []


def _middle(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The median at each step at which half of the curves have a value."""
    at: dict[float, list[float]] = {}
    for curve in curves:
        for step, share in curve:
            at.setdefault(step, []).append(share)
    return [(step, median(at[step])) for step in sorted(at) if 2 * len(at[step]) >= len(curves)]


def _thinned(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
