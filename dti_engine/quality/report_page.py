"""The report of a run of `dti train`: a self-contained page with plots."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from markupsafe import Markup

from dti_engine.errors import InvalidImageError
from dti_engine.html.page import Thumbnail, duration, template, thumbnail, with_token
from dti_engine.html.plots import Curve, Dot, Group, curves, distribution, scatter
from dti_engine.quality.summary import RunReport, SubjectReport

T = TypeVar("T")

MAX_CURVES = 200  # in a plot: more are a blot, and megabytes
_MAX_POINTS = 60  # per curve
_PASSED, _FLAGGED = ("not flagged", "line-1"), ("flagged", "flag")


def anchors(summary: RunReport) -> dict[str, str]:
    """Return name -> the anchor of the subject's row in the page."""
    return {each.name: f"row-{place}" for place, each in enumerate(summary.rows, start=1)}


def score_plot(summary: RunReport) -> str | None:
    """Plot subject score against prompt score; return None if nothing was scored."""
    places = anchors(summary)

    def dots(rows: Sequence[SubjectReport]) -> list[Dot]:
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


def angle_plot(summary: RunReport) -> str | None:
    """Plot the angles of all tokens to their priors; return None if none is known."""
    passed, flagged = (
        [each.prior_angle_deg for each in rows if each.prior_angle_deg is not None]
        for rows in _parted(summary.learned)
    )
    groups = [Group(*_PASSED, passed), Group(*_FLAGGED, flagged)]
    if not passed and not flagged:
        return None
    return distribution(_filled(groups), x_label="angle to the prior (degrees)", y_label="subjects")


def loss_plot(summary: RunReport) -> str | None:
    """Plot fixed losses over the steps, relative to the first; return None if none is known."""
    places = anchors(summary)
    shares = {each.name: share for each in summary.learned if (share := _shares(each))}
    if not shares:
        return None

    def drawn(rows: Sequence[SubjectReport]) -> list[Curve]:
        return [
            Curve(
                _thinned(shares[each.name], _MAX_POINTS),
                f"{each.name}: {shares[each.name][-1][1]:.0%} of its first loss",
                f"#{places[each.name]}",
            )
            for each in rows
            if each.name in shares
        ]

    passed, flagged = (drawn(rows) for rows in _parted(summary.learned))
    # Flagged ones first: they are few in a good run, and are what the plot is looked at for.
    flagged = _thinned(flagged, MAX_CURVES // 2)
    passed = _thinned(passed, MAX_CURVES - len(flagged))
    groups = [Group(*_PASSED, passed), Group(*_FLAGGED, flagged)]
    return curves(
        _filled(groups), _middle(list(shares.values())), y_label="fixed loss, share of its first"
    )


def _parted(rows: Sequence[SubjectReport]) -> tuple[list[SubjectReport], list[SubjectReport]]:
    """Return the rows without flags, and those with flags."""
    flagged = [each for each in rows if each.flags]
    return [each for each in rows if not each.flags], flagged


def _filled(groups: Sequence[Group[T]]) -> list[Group[T]]:
    return [each for each in groups if each.members]


def _shares(found: SubjectReport) -> list[tuple[float, float]]:
    first = found.first_fixed_loss
    return [(step, loss / first) for step, loss in found.curve] if first else []


def _middle(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the median at each step at which at least half of the curves have a value."""
    at: dict[float, list[float]] = {}
    for curve in curves:
        for step, share in curve:
            at.setdefault(step, []).append(share)
    return [(step, median(at[step])) for step in sorted(at) if 2 * len(at[step]) >= len(curves)]


def _thinned(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` items at equal distances, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


MAX_IMAGED = 200  # rows with images: with those of thousands, no browser would open the page
_CARD_SIDE_PX, _ROW_SIDE_PX = 256, 96  # twice the size on the page, for dense screens


@dataclass(frozen=True, slots=True)
class _Album:
    """Thumbnails of the run's images; instead of a damaged one, the error message."""

    root: Path

    def of_card(self, file: str) -> Thumbnail | str:
        """Return an image for a card."""
        return self._open(file, _CARD_SIDE_PX)

    def of_row(self, file: str) -> Thumbnail | str:
        """Return an image for a row of the table."""
        return self._open(file, _ROW_SIDE_PX)

    def _open(self, file: str, side_px: int) -> Thumbnail | str:
        try:
            return thumbnail(self.root / file, side_px=side_px)
        except InvalidImageError as error:
            return str(error)


def render(summary: RunReport, root: Path) -> str:
    """Return the page; images are embedded from the run's folder."""
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
        anchors=anchors(summary),
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


def _notes(summary: RunReport) -> Iterator[str]:
    """Yield warnings that a reader should know before trusting the numbers."""
    run, counts = summary.run, summary.counts
    if run.log_problem:
        yield (f"Failures, times and intermediate steps are unknown: {run.log_problem}.")
    elif not run.num_runs:
        yield "The log does not say how a run began; this page is made from token files alone."
    elif not run.is_ended:
        yield (
            "The last run has not logged its end: it is still running, or was killed. The same "
            "command with --resume continues it."
        )
    if run.stopped_by:
        yield f"{run.stopped_by} stopped the last run; the same command with --resume continues it."
    if run.num_subjects and run.num_subjects > counts["subjects"]:
        yield (
            f"{run.num_subjects - counts['subjects']} more subjects were requested, of which "
            "nothing is known yet."
        )
    if counts["unvalidated"]:
        yield (
            f"{counts['unvalidated']} of the {counts['learned']} tokens are not validated: by "
            "--validation-images 0, or because the run has not come that far."
        )
    if num_uncompared := sum(1 for each in summary.learned if each.is_uncompared):
        yield (
            f"{num_uncompared} tokens are validated but not compared with the others yet, so none "
            "of them is flagged; the same command with --resume compares them."
        )
    if len(run.models) > 1:
        yield f"The tokens are of different models: {', '.join(run.models)}."
    if summary.left_out:
        yield f"Left out, because they were not trained here: {', '.join(summary.left_out)}."
