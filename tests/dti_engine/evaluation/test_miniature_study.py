"""An evaluation end to end on a tiny model: complete, resumable, and told as it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.miniature import MiniatureStudy
from dti_engine.evaluation.protocol import MiniatureProtocol
from dti_engine.evaluation.results import MiniatureResults
from dti_engine.evaluation.rows import LENGTHS, MINIATURE_TITLES
from dti_engine.miniature.scorer import Scorer
from dti_engine.miniature.world.subjects import evaluation_prompts, held_out_subjects

PROMPTS = evaluation_prompts()
NUM_IMAGES = 2 * 2 * 8 + 2 * 8 * (6 + 2 * 2 + len(LENGTHS))  # settings; subjects in rows


class Stopped(Exception):
    pass


def test_every_row_has_all_its_images(results: MiniatureResults, study_folder: Path) -> None:
    assert [row.title for row in results.rows] == list(MINIATURE_TITLES.values())
    assert {row.num_images for row in results.rows} == {2 * 8}
    assert results.num_images == NUM_IMAGES
    assert len(list(study_folder.glob("images/**/*.png"))) == NUM_IMAGES
    assert len((study_folder / "scores.jsonl").read_text().splitlines()) == NUM_IMAGES
    assert results.num_tokens == 2 * 2 + 2 * 2


def test_the_amount_of_work_is_known_before(
    results: MiniatureResults,
    study_folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: MiniatureProtocol,
) -> None:
    study = MiniatureStudy(
        evaluation_backbone, evaluation_scorer, tiny_protocol, study_folder, weights_sha256="tiny"
    )
    assert study.count_work() == (results.num_tokens, results.num_images)


def test_one_setting_of_each_method_is_chosen_and_used(results: MiniatureResults) -> None:
    chosen = {each.method: each for each in results.settings if each.is_chosen}
    assert chosen.keys() == {"dti", "ti"}
    used = {row.kind: row.lengths for row in results.rows}
    assert used["dti"] == {"text_encoder": pytest.approx(1.0)}
    assert used["ti_rescaled"] == {"text_encoder": 1.0}
    assert used["ti"] != {"text_encoder": pytest.approx(1.0)}
    assert used["class_word"].keys() == {"text_encoder"}
    assert used["description"] == used["drawing"] == {}


def test_the_frontier_holds_both_methods_at_all_steps(results: MiniatureResults) -> None:
    points = [(each.method, each.steps) for each in results.frontier.points]
    assert points == [(method, steps) for method in ("dti", "ti") for steps in (1, 2, 4)]


def test_a_second_start_does_nothing_and_finds_the_same(
    results: MiniatureResults,
    study_folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: MiniatureProtocol,
) -> None:
    files = sorted(study_folder.glob("[tp]*/**/*.*"))
    before = {path: path.stat().st_mtime_ns for path in files}
    again = MiniatureStudy(
        evaluation_backbone, evaluation_scorer, tiny_protocol, study_folder, weights_sha256="tiny"
    ).run()
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert again.seconds > results.seconds
    assert replace(again, seconds=results.seconds) == results


@pytest.mark.parametrize("stop_at", ["train ti 1", "generate subjects"])
def test_a_stopped_study_resumes_to_the_same_scores(
    stop_at: str,
    results: MiniatureResults,
    tmp_path: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: MiniatureProtocol,
) -> None:
    def stop(doing: str, done: int, total: int) -> None:
        if doing == stop_at and done > total // 2:
            raise Stopped

    def study(**options: object) -> MiniatureStudy:
        return MiniatureStudy(
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
    results: MiniatureResults,
    study_folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: MiniatureProtocol,
) -> None:
    with pytest.raises(ConfigurationError, match="other options or weights"):
        MiniatureStudy(
            evaluation_backbone,
            evaluation_scorer,
            tiny_protocol,
            study_folder,
            weights_sha256="new",
        )


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("evaluation_prompts", lambda: [replace(each, place="left") for each in PROMPTS]),
        ("held_out_subjects", lambda part: held_out_subjects(part)[::-1]),
        ("__version__", "0.0.0"),
    ],
)
def test_other_prompts_looks_and_versions_are_refused_in_the_same_folder(
    name: str,
    other: object,
    results: MiniatureResults,
    study_folder: Path,
    evaluation_backbone: Backbone,
    evaluation_scorer: Scorer,
    tiny_protocol: MiniatureProtocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def study() -> MiniatureStudy:
        return MiniatureStudy(
            evaluation_backbone,
            evaluation_scorer,
            tiny_protocol,
            study_folder,
            weights_sha256="tiny",
        )

    study()
    monkeypatch.setattr(f"dti_engine.evaluation.miniature.{name}", other)
    with pytest.raises(ConfigurationError, match="other options or weights"):
        study()


def test_all_results_are_plain_values(results: MiniatureResults) -> None:
    document = results.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    assert [each["verdict"] for each in document["verdicts"]] == [a.verdict for a in results.aims]


def test_the_sheet_shows_every_row_of_the_first_subjects(
    results: MiniatureResults, study_folder: Path
) -> None:
    with Image.open(study_folder / "sheet.png") as sheet:
        assert sheet.width > 8 * 64
        assert sheet.height > 2 * (1 + len(results.rows)) * 64
        assert len(sheet.getcolors(maxcolors=10**6) or []) > 1000
