"""The report of a run: one HTML file that needs nothing beside it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from dti_engine.errors import InvalidImageError
from dti_engine.pages.pictures import Thumbnail, thumbnail
from dti_engine.pages.templates import duration, template, with_token
from dti_engine.quality.charts import MAX_CURVES, anchor, angle_plot, loss_plot, score_plot
from dti_engine.quality.summary import Summary

MAX_PICTURED = 200  # rows with pictures; with all of thousands, no browser would open the page
_CARD_SIDE, _ROW_SIDE = 256, 96  # pixels, twice of what they are shown at


@dataclass(frozen=True, slots=True)
class _Album:
    """Pictures of the run's folder, small; in place of one that is damaged, what is wrong."""

    root: Path

    def of_card(self, file: str) -> Thumbnail | str:
        return self._open(file, _CARD_SIDE)

    def of_row(self, file: str) -> Thumbnail | str:
        return self._open(file, _ROW_SIDE)

    def _open(self, file: str, side: int) -> Thumbnail | str:
        try:
            return thumbnail(self.root / file, side=side)
        except InvalidImageError as error:
            return str(error)


def render(summary: Summary, root: Path) -> str:
    """The page; pictures are taken from the run's folder and put into it."""
    pictured = [each.name for each in summary.rows if each.reference or each.pictures]
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
        pictured=frozenset(pictured[:MAX_PICTURED]),
        num_unpictured=max(0, len(pictured) - MAX_PICTURED),
        max_pictured=MAX_PICTURED,
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
            "pictures: by --probes 0, or because the run has not come that far."
        )
    if num_alone := sum(1 for each in summary.learned if each.is_alone):
        yield (
            f"{num_alone} tokens were tried out, but not held beside the others yet, so that none "
            "of them is flagged; the same command with --resume does it."
        )
    if len(run.backbones) > 1:
        yield f"The tokens are of different models: {', '.join(run.backbones)}."
    if summary.left_out:
        yield f"Left out, as they were not learned here: {', '.join(summary.left_out)}."
