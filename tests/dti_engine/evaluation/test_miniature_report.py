"""The report tells all that was found, and what falls short."""

import re
from dataclasses import replace

from dti_engine.evaluation.miniature_report import report
from dti_engine.evaluation.results import Comparison, Frontier, MiniatureResults
from dti_engine.evaluation.shortfalls import shortfalls
from dti_engine.evaluation.statistics import Estimate


def test_the_report_tells_all_rows_aims_settings_effects_and_how_to_repeat(
    results: MiniatureResults,
) -> None:
    text = report(results, command="dti evaluate miniature --quick")
    for each in results.frontier.comparisons:
        assert f"| {each.level:.3f} | {each.dti_prompt_score:.3f} |" in text
    for row in results.rows:
        assert f"| {row.title} | {row.subject_score.value:.3f} [" in text
    for aim in results.aims:
        assert f"| {aim.text} | {aim.reached:.3f} | {aim.needed:.3f} |" in text
    for each in results.lengths:
        assert f"| {each.length:g} | {each.subject_score.value:.3f} [" in text
    for scale in results.effects.at_scale:
        assert f"| {scale.scale:g} | {scale.position_accuracy:.3f} |" in text
    assert text.count("chosen |") == 2
    assert "dti evaluate miniature --quick" in text
    assert "subjects they are too short" in text
    assert all(f"- {each}" in text for each in shortfalls(results))


def test_tables_of_the_report_have_as_many_cells_in_every_line(results: MiniatureResults) -> None:
    widths: list[int] = []
    for line in report(results, command="dti evaluate").splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
        elif widths:
            assert len(set(widths)) == 1
            widths.clear()


def test_every_shortfall_is_reported(results: MiniatureResults) -> None:
    worse = Estimate(-0.2, -0.3, -0.1)
    differences = [replace(each, prompt_score=worse) for each in results.differences]
    aims = [replace(each, margin=worse) for each in results.aims]
    frontier = Frontier([], [Comparison(level, 0.5, 0.7, worse) for level in (0.2, 0.3, 0.4)])
    worst = replace(results, differences=differences, aims=aims, frontier=frontier)
    message = "\n".join(shortfalls(worst))
    assert message.count("not met, by -0.200 [-0.300, -0.100]") == 3
    below = re.findall(r"DTI's prompt score lies below (?:that of|TI's).* -0\.200", message)
    assert len(below) == len(differences) + 2  # the highest level is an aim
    assert "the bound of Proposition 1 does not apply" in message


def test_results_as_expected_are_no_shortfalls(results: MiniatureResults) -> None:
    better = Estimate(0.2, 0.1, 0.3)
    differences = [
        replace(each, subject_score=better, prompt_score=better) for each in results.differences
    ]
    aims = [replace(each, margin=better) for each in results.aims]
    rows = [
        replace(
            row,
            prompt_by_prompt=[1.0] * 8,
            lengths={"a": 100.0} if row.kind == "ti" else row.lengths,
        )
        for row in results.rows
    ]
    worse = Estimate(-0.2, -0.3, -0.1)
    lengths = [replace(each, drop=worse) for each in results.lengths]
    scales = [replace(each, bound_deg=1.0) for each in results.effects.at_scale]
    good = replace(
        results,
        differences=differences,
        aims=aims,
        rows=rows,
        settings=[each for each in results.settings if each.is_chosen],
        frontier=Frontier([], [Comparison(0.4, 0.7, 0.5, better)] * 2),
        lengths=lengths,
        effects=replace(results.effects, at_scale=scales),
    )
    assert shortfalls(good) == []
    assert "Nothing." in report(good, command="")
