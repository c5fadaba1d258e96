"""Shortfalls of DTI on the miniature, found by comparing all results, so that none is omitted."""

from collections.abc import Iterator
from statistics import fmean

from dti_engine.evaluation.protocol import METHODS
from dti_engine.evaluation.report import interval
from dti_engine.evaluation.results import MiniatureResults
from dti_engine.evaluation.rows import MINIATURE_TITLES

_WEAK = 0.75  # prompt score
_LONG = 2.0  # in m*, from which a length counts as inflated
_TUNED = {"dti": ("lr", "kappa"), "ti": ("lr", "weight_decay")}


def shortfalls(results: MiniatureResults) -> list[str]:
    """Return one sentence per shortfall, in the order of the report."""
    return [
        *_aims(results),
        *_differences(results),
        *_frontier(results),
        *_prompts(results),
        *_edges(results),
        *_lengths(results),
        *_effects(results),
    ]


def _aims(results: MiniatureResults) -> Iterator[str]:
    for aim in results.aims:
        if aim.verdict != "met":
            yield f"{aim.text}: {aim.verdict}, by {interval(aim.margin, signed=True)}."


def _differences(results: MiniatureResults) -> Iterator[str]:
    for each in results.differences:
        for name, found in (("subject", each.subject_score), ("prompt", each.prompt_score)):
            if found.value < 0:
                certain = "" if found.high < 0 else ", which may be chance"
                yield (
                    f"DTI's {name} score lies below that of {each.other}: "
                    f"{interval(found, signed=True)}{certain}."
                )


def _frontier(results: MiniatureResults) -> Iterator[str]:
    *lower, _ = results.frontier.comparisons  # the highest is an aim
    for each in lower:
        if each.gap.value < 0:
            certain = "" if each.gap.high < 0 else ", which may be chance"
            yield (
                f"At the subject score {each.level:.2f} DTI's prompt score lies below TI's: "
                f"{interval(each.gap, signed=True)}{certain}."
            )


def _prompts(results: MiniatureResults) -> Iterator[str]:
    by_kind = {row.kind: row for row in results.rows}
    floor, dti, ti = (by_kind[kind].prompt_by_prompt for kind in ("class_word", "dti", "ti"))
    for index, template in enumerate(results.prompts):
        if floor[index] < _WEAK:
            yield (
                f"The model itself shows only {floor[index]:.2f} of what `{template}` asks for, "
                "with the class word."
            )
        if dti[index] < ti[index]:
            yield (
                f"In `{template}` DTI follows the prompt less than TI: {dti[index]:.2f}, not "
                f"{ti[index]:.2f}."
            )


def _edges(results: MiniatureResults) -> Iterator[str]:
    for method in METHODS:
        settings = [each for each in results.settings if each.method == method]
        (chosen,) = (each for each in settings if each.is_chosen)
        for name in _TUNED[method]:
            values = sorted({float(getattr(each, name)) for each in settings})
            value = float(getattr(chosen, name))
            if len(values) > 1 and value in (values[0], values[-1]):
                end = "smallest" if value == values[0] else "largest"
                yield (
                    f"{MINIATURE_TITLES[method]} did best with {name} {value:g}, the {end} of "
                    f"{len(values)} values: a better one may lie beyond."
                )


def _lengths(results: MiniatureResults) -> Iterator[str]:
    harmless = [each.length for each in results.lengths if each.length > 1 and each.drop.high >= 0]
    if harmless:
        yield (
            f"Up to {max(harmless):g} m* length alone does not lower the prompt score, as far as "
            "these prompts and this scorer can tell."
        )


def _effects(results: MiniatureResults) -> Iterator[str]:
    measured = results.effects
    (ti,) = (row for row in results.rows if row.kind == "ti")
    length = fmean(ti.lengths.values())
    if length < _LONG:
        yield (
            f"TI's vectors are only {length:.1f} m* long here: at this budget they do not grow to "
            "the lengths by which the paper explains TI's failures."
        )
    unbounded = [each.scale for each in measured.at_scale if each.bound_deg is None]
    if unbounded:
        yield (
            f"Up to {max(unbounded):g} m* the bound of Proposition 1 does not apply: the layers' "
            f"updates add up to {measured.sum_of_largest_updates / measured.magnitude:.0f} m*."
        )
