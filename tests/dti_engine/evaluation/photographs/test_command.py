"""`dti evaluate` on photographs, whole: what it writes and refuses, and how it goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner, Result

from dti_engine.artifact import Artifact
from dti_engine.cli import app
from dti_engine.evaluation.photographs.scoring import Examiner
from dti_engine.generation import read_settings
from dti_engine.vocabulary import vocabulary_magnitude

Evaluate = Callable[..., Result]
WRITTEN = ("report.md", "sheet.png", "results.json")


@pytest.fixture(scope="module")
def subjects(make_subjects: Callable[..., Path]) -> Path:
    return make_subjects()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command") / "evaluation"


@pytest.fixture(scope="module")
def ran(folder: Path, subjects: Path, dti_evaluate: Evaluate) -> Result:
    return dti_evaluate(folder, subjects)


def _results(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name != "seconds"}


def _scores(folder: Path) -> dict[str, dict[str, object]]:
    lines = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    return {line["picture"]: line for line in lines}


def test_it_prints_a_table_and_where_the_rest_is(ran: Result, folder: Path) -> None:
    assert ran.exit_code == 0, ran.output
    written = [Path(line) for line in ran.stdout.splitlines()[-3:]]
    assert written == [folder / name for name in WRITTEN]
    assert all(path.stat().st_size > 1000 for path in written)
    assert "train dti: 4 of 4" in ran.stderr
    assert "paint ti-rescaled: 8 of 8" in ran.stderr


def test_every_picture_has_a_score_and_its_settings(ran: Result, folder: Path) -> None:
    scores = _scores(folder)
    assert len(scores) == 5 * 2 * 2 * 2
    for key in scores:
        settings = read_settings(folder / "pictures" / f"{key}.png")
        assert settings["shot"] == key
        assert settings["steps"] == 2
        assert settings["seed"] == scores[key]["image_seed"]
        assert len(settings["tokens"]) == (0 if key.startswith("word/") else 1)
    word = read_settings(folder / "pictures/word/ted/prompt00-training0-image0.png")
    assert word["prompt"] == "a toy bear on the beach"


def test_rows_are_means_over_pictures(ran: Result, folder: Path) -> None:
    scores = _scores(folder).values()
    for row in json.loads((folder / "results.json").read_text())["rows"]:
        own = [each for each in scores if each["row"] == row["name"]]
        assert row["num_pictures"] == len(own) == 8  # in batches of 3, 3 and 2
        for name in ("masked_subject_score", "subject_score", "prompt_score", "prompt_cosine"):
            assert row[name]["value"] == pytest.approx(fmean(each[name] for each in own))
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        assert row["masked_subject_score"] != row["subject_score"]


def test_methods_share_all_but_what_is_their_own(ran: Result, folder: Path) -> None:
    dti, ti = (
        Artifact.load(folder / f"tokens/{name}/rex-training0.safetensors").manifest.training
        for name in ("dti", "ti")
    )
    assert dti
    assert ti
    assert (dti.seed, dti.initializer, dti.pictures) == (ti.seed, ti.initializer, ti.pictures)
    assert dti.seed == 42
    assert dti.notes_sha256 is None  # masks are for scoring
    for name in ("steps", "batch_size", "resolution", "captions", "timesteps"):
        assert getattr(dti.config, name) == getattr(ti.config, name)
    assert not (folder / "checkpoints").exists()


def test_lengths_are_in_m(ran: Result, folder: Path, tiny_backbone: object) -> None:
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert rows["dti"]["lengths"]["text_encoder"] == pytest.approx(1, abs=1e-5)
    assert rows["ti-rescaled"]["lengths"] == {"text_encoder": 1.0}
    token = [
        Artifact.load(folder / f"tokens/ti/{name}-training0.safetensors").token
        for name in ("rex", "ted")
    ]
    mean = fmean(each.embeddings["text_encoder"].norm(dim=-1).mean().item() for each in token)
    m = vocabulary_magnitude(tiny_backbone.text_encoders["text_encoder"])
    assert rows["ti"]["lengths"]["text_encoder"] == pytest.approx(mean / m, rel=1e-5)


def test_the_report_says_all_that_a_reader_must_know(ran: Result, folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "| Method | Image, masked | Image, unmasked | Text | Text, cosine |" in text
    assert "not measured here" in text
    assert "0.450 / 0.522" in text
    assert "--seeds 3" in text
    assert str(folder.parent) not in text
    (command,) = (line for line in text.splitlines() if line.startswith("dti evaluate"))
    assert "--methods word,ti,ti-rescaled,cross-init,dti" in command
    assert "| DTI | TI | " in text
    assert "| ti | 0.005 | constant | 0.0 | 0.01 | initializer |" in text
    assert "The same for all: steps 2, batch_size 4, resolution 16" in text


def test_tables_of_the_report_have_as_many_cells_in_every_line(ran: Result, folder: Path) -> None:
    for lines in (folder / "report.md").read_text().split("\n\n"):
        assert len({line.count("|") for line in lines.splitlines() if line[0] == "|"}) <= 1


def test_the_same_command_finds_all_done(
    ran: Result, folder: Path, subjects: Path, dti_evaluate: Evaluate
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("pictures/**/*.png")}
    known = _results(folder)
    again = dti_evaluate(folder, subjects, "--json")
    assert again.exit_code == 0, again.output
    assert _results(folder) == known
    assert json.loads(again.stdout)["rows"] == known["rows"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_after_a_stop_it_ends_with_the_same_scores(
    ran: Result,
    folder: Path,
    subjects: Path,
    tmp_path: Path,
    dti_evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after a few pictures, and among the lines of a batch's scores."""
    examined, batches = Examiner._examined, []

    def until_it_breaks(self: Examiner, shots: list[object]) -> object:
        batches.append(shots)
        if len(batches) == 5:
            raise KeyboardInterrupt
        return examined(self, shots)

    monkeypatch.setattr(Examiner, "_examined", until_it_breaks)
    stopped = dti_evaluate(tmp_path / "stopped", subjects)
    assert stopped.exit_code != 0
    monkeypatch.undo()
    file = tmp_path / "stopped" / "scores.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert 0 < len(lines) < 32
    file.write_text("".join(lines[:-1]) + lines[-1][:20])
    again = dti_evaluate(tmp_path / "stopped", subjects)
    assert again.exit_code == 0, again.output
    assert _scores(tmp_path / "stopped") == _scores(folder)
    assert _results(tmp_path / "stopped") == _results(folder)


def test_kappas_are_rows_of_the_same_folder(
    ran: Result, folder: Path, subjects: Path, tmp_path: Path, dti_evaluate: Evaluate
) -> None:
    shutil.copytree(folder, tmp_path / "more")
    options = ("--methods", "dti,ti", "--kappa", "5e-5", "--kappa", "0.5", "--json")
    found = json.loads(dti_evaluate(tmp_path / "more", subjects, *options).stdout)
    assert [row["title"] for row in found["rows"]] == ["TI", "DTI, κ = 5e-05", "DTI, κ = 0.5"]
    assert len(found["differences"]) == 2
    known = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert found["rows"][0] == known["ti"]
    assert found["rows"][1]["subject_score"] != found["rows"][2]["subject_score"]


def test_another_study_is_refused_in_the_same_folder(
    ran: Result, folder: Path, subjects: Path, dti_evaluate: Evaluate
) -> None:
    refused = dti_evaluate(folder, subjects, "--seed", "7")
    assert refused.exit_code == 2
    assert "other options or weights" in refused.stderr


def test_photos_without_masks_are_never_mixed_with_others(
    make_subjects: Callable[..., Path], tmp_path: Path, dti_evaluate: Evaluate
) -> None:
    done = dti_evaluate(tmp_path / "out", make_subjects(masks=2), "--methods", "word")
    assert done.exit_code == 0, done.output
    assert "only 2 of 3 photos have masks" in done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not found["is_masked"]
    assert found["rows"][0]["masked_subject_score"] is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Image, masked" not in text
    assert "**not masked**" in text
    assert "photos without masks: ted." in text


def test_without_subjects_it_says_what_to_give(tiny_checkpoint: Path, tmp_path: Path) -> None:
    asked = ["evaluate", "--backbone", str(tiny_checkpoint), "--output", str(tmp_path)]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    assert "give --subjects and a folder of bundles" in refused.stderr


def test_one_subject_and_unknown_methods_are_refused_at_once(
    subjects: Path, tmp_path: Path, dti_evaluate: Evaluate
) -> None:
    one = tmp_path / "one"
    shutil.copytree(subjects / "rex", one / "rex")
    refused = dti_evaluate(tmp_path / "out", one)
    assert refused.exit_code == 2
    assert "at least 2 bundles" in refused.stderr
    refused = dti_evaluate(tmp_path / "out", subjects, "--methods", "dti,crossinit")
    assert refused.exit_code == 2
    assert "no method 'crossinit'; known are word, ti, ti-rescaled, cross-init, dti" in (
        refused.stderr
    )


def test_a_word_that_the_model_does_not_know_is_refused_before_anything_is_trained(
    subjects: Path, tmp_path: Path, dti_evaluate: Evaluate
) -> None:
    shutil.copytree(subjects, tmp_path / "subjects")
    path = tmp_path / "subjects" / "rex" / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_noun": " "}))
    refused = dti_evaluate(tmp_path / "out", tmp_path / "subjects")
    assert refused.exit_code == 2
    assert "no usable rows in the vocabulary" in refused.stderr
    assert not (tmp_path / "out" / "tokens").exists()


def test_missing_judges_are_refused_before_anything_is_trained(
    subjects: Path, tmp_path: Path, dti_evaluate: Evaluate
) -> None:
    refused = dti_evaluate(tmp_path / "out", subjects, "--dinov2", str(tmp_path / "none"))
    assert refused.exit_code == 2
    assert "there is no scorer at" in refused.stderr
    assert not (tmp_path / "out" / "tokens").exists()
