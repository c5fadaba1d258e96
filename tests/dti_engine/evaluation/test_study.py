"""An evaluation end to end on a tiny model: complete, resumable, and told as it was."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.protocol import Protocol
from dti_engine.evaluation.report import report
from dti_engine.evaluation.results import Results
from dti_engine.evaluation.rows import TITLES
from dti_engine.evaluation.shortfalls import shortfalls
from dti_engine.evaluation.statistics import Estimate
from dti_engine.evaluation.study import Study
from dti_engine.miniature.scorer import Scorer

NUM_PICTURES = 2 * 2 * 8 + 2 * 8 * (6 + 2 * 2)  # settings; subjects, rows and shorter runs


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "whole"


@pytest.fixture(scope="module")
def results(
    folder: Path, evaluation_backbone: Backbone, evaluation_scorer: Scorer, tiny_protocol: Protocol
) -> Results:
    study = Study(
        evaluation_backbone, evaluation_scorer, tiny_protocol, folder, weights_sha256="tiny"
    )
    return study.run()


def test_every_row_has_all_its_pictures(results: Results, folder: Path) -> None:
    assert [row.title for row in results.rows] == list(TITLES.values())
    assert {row.num_pictures for row in results.rows} == {2 * 8}
    assert results.num_pictures == NUM_PICTURES
    assert len(list(folder.glob("pictures/**/*.png"))) == NUM_PICTURES
    assert len((folder / "scores.jsonl").read_text().splitlines()) == NUM_PICTURES
    assert results.num_tokens == 2 * 2 + 2 * 2


def test_one_setting_of_each_method_is_chosen_and_used(results: Results) -> None:
    chosen = {each.method: each for each in results.settings if each.is_chosen}
    assert chosen.keys() == {"dti", "ti"}
    used = {row.kind: row.norm for row in results.rows}
    assert used["dti"] == pytest.approx(results.effects.magnitude)
    assert used["ti_rescaled"] == pytest.approx(results.effects.magnitude)
    assert used["ti"] != pytest.approx(results.effects.magnitude)


def test_the_frontier_holds_both_methods_at_all_steps(results: Results) -> None:
    points = [(each.method, each.steps) for each in results.frontier.points]
    assert points == [(method, steps) for method in ("dti", "ti") for steps in (1, 2, 4)]


def test_a_second_start_does_nothing_and_finds_the_same(
    results: Results,
    folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: Protocol,
) -> None:
    files = sorted(folder.glob("[tp]*/**/*.*"))
    before = {path: path.stat().st_mtime_ns for path in files}
    again = Study(
        evaluation_backbone, evaluation_scorer, tiny_protocol, folder, weights_sha256="tiny"
    ).run()
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert again.seconds > results.seconds
    assert replace(again, seconds=results.seconds) == results


@pytest.mark.parametrize("stop_at", ["train ti 1", "paint subjects"])
def test_one_that_was_stopped_goes_on_to_the_same_scores(
    stop_at: str,
    results: Results,
    tmp_path: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: Protocol,
) -> None:
    def stop(doing: str, done: int, total: int) -> None:
        if doing == stop_at and done > total // 2:
            raise Stopped

    def study(**options: object) -> Study:
        return Study(
            evaluation_backbone,
            evaluation_scorer,
            tiny_protocol,
            tmp_path,
            weights_sha256="tiny",
            **options,
        )

    with pytest.raises(Stopped):
        study(on_progress=stop).run()
    counted: dict[str, list[int]] = {}
    found = study(on_progress=lambda what, done, _: counted.setdefault(what, []).append(done)).run()
    assert counted["train dti 0"][0] > 0
    assert replace(found, seconds=results.seconds) == results


def test_other_weights_are_refused_in_the_same_folder(
    results: Results,
    folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: Protocol,
) -> None:
    with pytest.raises(ConfigurationError, match="other options or weights"):
        Study(evaluation_backbone, evaluation_scorer, tiny_protocol, folder, weights_sha256="new")


def test_all_results_are_plain_values(results: Results) -> None:
    document = results.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    assert [each["verdict"] for each in document["verdicts"]] == [a.verdict for a in results.aims]


def test_the_sheet_shows_every_row_of_the_first_subjects(results: Results, folder: Path) -> None:
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 8 * 64
        assert sheet.height > 2 * (1 + len(results.rows)) * 64
        assert len(sheet.getcolors(maxcolors=10**6) or []) > 1000


def test_the_report_tells_all_rows_aims_settings_effects_and_how_to_repeat(
    results: Results,
) -> None:
    text = report(results, command="dti evaluate --quick")
    for row in results.rows:
        assert f"| {row.title} | {row.subject_score.value:.3f} [" in text
    for aim in results.aims:
        assert f"| {aim.text} | {aim.reached:.3f} | {aim.needed:.3f} |" in text
    for scale in results.effects.at_scale:
        assert f"| {scale.scale:g} | {scale.position_accuracy:.3f} |" in text
    assert text.count("chosen |") == 2
    assert "dti evaluate --quick" in text
    assert "intervals are too short" in text or "they are too short" in text
    assert all(f"- {each}" in text for each in shortfalls(results))


def test_tables_of_the_report_have_as_many_cells_in_every_line(results: Results) -> None:
    widths: list[int] = []
    for line in report(results, command="dti evaluate").splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
        elif widths:
            assert len(set(widths)) == 1
            widths.clear()


def test_whatever_falls_short_is_told(results: Results) -> None:
    worse = Estimate(-0.2, -0.3, -0.1)
    differences = [replace(each, prompt_score=worse) for each in results.differences]
    aims = [replace(each, margin=worse) for each in results.aims]
    told = "\n".join(shortfalls(replace(results, differences=differences, aims=aims)))
    assert told.count("not met, by -0.200 [-0.300, -0.100]") == 3
    assert len(re.findall(r"DTI's prompt score lies below .* -0\.200", told)) == len(differences)
    assert "the bound of Proposition 1 does not apply" in told


def test_what_comes_out_as_hoped_is_not_called_a_shortfall(results: Results) -> None:
    better = Estimate(0.2, 0.1, 0.3)
    differences = [
        replace(each, subject_score=better, prompt_score=better) for each in results.differences
    ]
    aims = [replace(each, margin=better) for each in results.aims]
    rows = [
        replace(row, prompt_by_prompt=[1.0] * 8, norm=100.0 if row.kind == "ti" else row.norm)
        for row in results.rows
    ]
    scales = [replace(each, bound_deg=1.0) for each in results.effects.at_scale]
    good = replace(
        results,
        differences=differences,
        aims=aims,
        rows=rows,
        settings=[each for each in results.settings if each.is_chosen],
        effects=replace(results.effects, at_scale=scales),
    )
    assert shortfalls(good) == []
    assert "Nothing." in report(good, command="")
