"""The plots of a run's report.

The report of a run: one HTML file that needs nothing beside it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from markupsafe import Markup

from dti_engine.errors import InvalidImageError
from dti_engine.html.page import Thumbnail, duration, template, thumbnail, with_token
from dti_engine.html.plots import Dot, Group, Thread, distribution, scatter, threads
from dti_engine.quality.summary import Row, Summary

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


MAX_IMAGED = 200  # rows with images; with all of thousands, no browser would open the page
_CARD_SIDE, _ROW_SIDE = 256, 96  # pixels, twice of what they are shown at


@dataclass(frozen=True, slots=True)
class _Album:
    """Images of the run's folder, small; in place of one that is damaged, what is wrong."""

    root: Path

    def of_card(self, file: str) -> Thumbnail | str:
        return self._open(file, _CARD_SIDE)

    def of_row(self, file: str) -> Thumbnail | str:
        return self._open(file, _ROW_SIDE)

    def _open(self, file: str, side: int) -> Thumbnail | str:
        try:
            return thumbnail(self.root / file, side_px=side)
        except InvalidImageError as error:
            return str(error)


def render(summary: Summary, root: Path) -> str:
    """The page; images are taken from the run's folder and put into it."""
    imaged = [each.name for each in summary.rows if each.reference or each.images]
    failures = [each for each in summary.rows if each.problem is not None]
    plots = score_plot(summary), angle_plot(summary), loss_plot(summary)
    return template(Path(__file__).parent).render(
        summary=summary,
        run=summary.run,
        counts=summary.counts,
        means=summary.means,
        notes=list(_notes(summary)),
        failures=failures,
        failure_kinds=Counter(each.problem_kind or "unknown" for each in failures).most_common(),
        plots=[Markup(each) if each else None for each in plots],
        anchors=anchor(summary),
        album=_Album(root),
        imaged=frozenset(imaged[:MAX_IMAGED]),
        num_unimaged=max(0, len(imaged) - MAX_IMAGED),
        max_imaged=MAX_IMAGED,
        max_curves=MAX_CURVES,
        score=_score,
        duration=duration,
        with_token=with_token,
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _notes(summary: Summary) -> Iterator[str]:
    """What a reader should know before the figures are believed."""
    run, counts = summary.run, summary.counts
    if run.log_problem:
        yield (
            f"Nothing is known of what failed, of times and of steps in between: {run.log_problem}."
        )
    elif not run.num_runs:
        yield "The log does not tell how a run began; what is known is from token files."
    elif not run.is_ended:
        yield (
            "The last run has not told of its end: it is still at work, or was killed. The same "
            "command with --resume goes on."
        )
    if run.stopped_by:
        yield f"{run.stopped_by} stopped the last run; the same command with --resume goes on."
    if run.num_subjects and run.num_subjects > counts["subjects"]:
        yield (
            f"{run.num_subjects - counts['subjects']} more subjects were asked for, of which "
            "nothing is known yet."
        )
    if counts["untried"]:
        yield (
            f"{counts['untried']} of the {counts['learned']} tokens were not tried out in "
            "images: by --validation-images 0, or because the run has not come that far."
        )
    if num_alone := sum(1 for each in summary.learned if each.is_alone):
        yield (
            f"{num_alone} tokens were tried out, but not held beside the others yet, so that none "
            "of them is flagged; the same command with --resume does it."
        )
    if len(run.models) > 1:
        yield f"The tokens are of different models: {', '.join(run.models)}."
    if summary.left_out:
        yield f"Left out, as they were not learned here: {', '.join(summary.left_out)}."
