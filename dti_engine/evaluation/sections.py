"""The sections of the report: each turns results into lines of markdown."""

from collections.abc import Iterator

from dti_engine.evaluation.protocol import METHODS
from dti_engine.evaluation.results import Results
from dti_engine.evaluation.rows import TITLES
from dti_engine.evaluation.shortfalls import shortfalls as find_shortfalls
from dti_engine.evaluation.tables import interval, length, table

_SIDE_BY_SIDE = ("class_word", "ti", "dti")


def aims(results: Results) -> Iterator[str]:
    yield from table(
        ("aim", "reached", "needed", "margin", "verdict"),
        (
            (
                aim.text,
                f"{aim.reached:.3f}",
                f"{aim.needed:.3f}",
                interval(aim.margin, signed=True),
                f"**{aim.verdict}**",
            )
            for aim in results.aims
        ),
    )
    yield ""
    yield "Uncertain: the interval of the margin holds both signs."


def scores(results: Results) -> Iterator[str]:
    yield from table(
        ("", "subject score", "prompt score", "length of the embedding", "pictures"),
        (
            (
                row.title,
                interval(row.subject_score),
                interval(row.prompt_score),
                length(row.norm, results.effects.magnitude),
                row.num_pictures,
            )
            for row in results.rows
        ),
    )


def differences(results: Results) -> Iterator[str]:
    yield from table(
        ("DTI minus", "subject score", "prompt score"),
        (
            (
                each.other,
                interval(each.subject_score, signed=True),
                interval(each.prompt_score, signed=True),
            )
            for each in results.differences
        ),
    )


def frontier(results: Results) -> Iterator[str]:
    frontier = results.frontier
    yield (
        "The chosen setting of each method after more and more steps, on the first image seed. "
        "Steps alone vary: another setting might trade one score for the other on another line."
    )
    yield ""
    yield from table(
        ("", "steps", "subject score", "prompt score", "length"),
        (
            (
                TITLES[point.method],
                point.steps,
                f"{point.subject_score:.3f}",
                f"{point.prompt_score:.3f}",
                length(point.norm, results.effects.magnitude),
            )
            for point in frontier.points
        ),
    )
    yield ""
    yield (
        "Compared at every subject score of the method that reaches less; the last is the highest "
        "that both reach, and what the aim is about. Prompt scores there are read off straight "
        "lines between the points above; of all that reach the subject score, the best counts."
    )
    yield ""
    yield from table(
        ("subject score", "DTI's prompt score", "TI's prompt score", "difference"),
        (
            (
                f"{each.level:.3f}",
                f"{each.dti_prompt_score:.3f}",
                f"{each.ti_prompt_score:.3f}",
                interval(each.gap, signed=True),
            )
            for each in frontier.comparisons
        ),
    )


def prompts(results: Results) -> Iterator[str]:
    rows = [row for row in results.rows if row.kind in _SIDE_BY_SIDE]
    yield "Prompt score / subject score."
    yield ""
    yield from table(
        ("prompt", *(row.title for row in rows)),
        (
            (
                f"`{template}`",
                *(
                    f"{row.prompt_by_prompt[i]:.2f} / {row.subject_by_prompt[i]:.2f}"
                    for row in rows
                ),
            )
            for i, template in enumerate(results.prompts)
        ),
    )


def settings(results: Results) -> Iterator[str]:
    yield (
        f"Chosen on {results.protocol['num_settings_subjects']} other subjects, one seed, by the "
        "mean of both scores."
    )
    yield ""
    yield from table(
        ("", "lr", "kappa", "weight decay", "subject", "prompt", "mean", "length", ""),
        (
            (
                TITLES[each.method],
                f"{each.lr:g}",
                f"{each.kappa:g}",
                f"{each.weight_decay:g}",
                f"{each.subject_score:.3f}",
                f"{each.prompt_score:.3f}",
                f"{each.merit:.3f}",
                length(each.norm, results.effects.magnitude),
                "chosen" if each.is_chosen else "",
            )
            for method in METHODS
            for each in results.settings
            if each.method == method
        ),
    )


def shortfalls(results: Results) -> Iterator[str]:
    found = find_shortfalls(results)
    yield from (f"- {each}" for each in found) if found else ("Nothing.",)
