"""`dti evaluate photographs`, whole: what it writes and refuses, and how it goes on."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones import checkpoint
from dti_engine.backbones.interface import Backbone
from dti_engine.cli import evaluate_photographs as command
from dti_engine.cli import photograph_study
from dti_engine.evaluation.scoring import ImageEvaluator
from dti_engine.images.png import read_settings
from dti_engine.text.encoder import vocabulary_magnitude

pytestmark = pytest.mark.slow

Evaluate = Callable[..., Result]
WRITTEN = ("report.md", "sheet.png", "results.json")


@pytest.fixture(scope="module")
def subjects(make_subjects: Callable[..., Path]) -> Path:
    return make_subjects()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command") / "evaluation"


@pytest.fixture(scope="module")
def ran(folder: Path, subjects: Path, evaluate_photographs: Evaluate) -> Result:
    return evaluate_photographs(folder, subjects)


def _results(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name != "seconds"}


def _scores(folder: Path) -> dict[str, dict[str, object]]:
    lines = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    return {line["image"]: line for line in lines}


def test_it_prints_a_table_and_where_the_rest_is(ran: Result, folder: Path) -> None:
    assert ran.exit_code == 0, ran.output
    written = [Path(line) for line in ran.stdout.splitlines()[-3:]]
    assert written == [folder / name for name in WRITTEN]
    assert all(path.stat().st_size > 1000 for path in written)
    assert "train dti: 4 of 4" in ran.stderr
    assert "generate: 40 of 40" in ran.stderr


def test_it_says_how_much_there_is_to_do_and_how_long_it_takes(ran: Result) -> None:
    """3 tokens of 2 subjects; 5 rows of 2 subjects in 2 prompts from 2 seeds."""
    assert "6 tokens to train and 40 images to generate\n" in ran.stderr
    assert re.search(r"  generate: 3 of 40, 0:00:0\d left\n", ran.stderr)


def test_every_image_has_a_score_and_its_settings(ran: Result, folder: Path) -> None:
    scores = _scores(folder)
    assert len(scores) == 5 * 2 * 2 * 2
    for key in scores:
        settings = read_settings(folder / "images" / f"{key}.png")
        assert settings["image"] == key
        assert settings["steps"] == 2
        assert settings["seed"] == scores[key]["image_seed"]
        assert len(settings["tokens"]) == (0 if key.startswith("word/") else 1)
    word = read_settings(folder / "images/word/ted/prompt00-training0-image0.png")
    assert word["prompt"] == "a toy bear on the beach"


def test_rows_are_means_over_images(ran: Result, folder: Path) -> None:
    scores = _scores(folder).values()
    for row in json.loads((folder / "results.json").read_text())["rows"]:
        own = [each for each in scores if each["row"] == row["name"]]
        assert row["num_images"] == len(own) == 8  # in batches of 3, 3 and 2
        for name in ("masked_subject_score", "subject_score", "prompt_score", "prompt_cosine"):
            assert row[name]["value"] == pytest.approx(fmean(each[name] for each in own))
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        assert row["masked_subject_score"] != row["subject_score"]


def test_methods_differ_only_in_their_own_settings(ran: Result, folder: Path) -> None:
    dti, ti = (
        Artifact.load(folder / f"tokens/{name}/rex-training0.safetensors").manifest.training
        for name in ("dti", "ti")
    )
    assert dti
    assert ti
    assert (dti.seed, dti.initializer, dti.images) == (ti.seed, ti.initializer, ti.images)
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
    assert "--num-training-seeds should be 3" in text
    assert str(folder.parent) not in text
    (command,) = (line for line in text.splitlines() if line.startswith("dti evaluate photographs"))
    assert "--methods word,ti,ti-rescaled,cross-init,dti" in command
    assert "--model tiny-epsilon --" in command  # of a folder the name alone
    assert "--recipe sd " in command
    assert "--slots 1 " in command
    assert "| DTI | TI | " in text
    assert "| ti | 0.005 | constant | 0.0 | 0.01 | initializer |" in text
    assert "The same for all: steps 2, batch_size 4, resolution 16" in text


def test_tables_of_the_report_have_as_many_cells_in_every_line(ran: Result, folder: Path) -> None:
    for lines in (folder / "report.md").read_text().split("\n\n"):
        assert len({line.count("|") for line in lines.splitlines() if line[0] == "|"}) <= 1


def test_the_same_command_finds_all_done(
    ran: Result, folder: Path, subjects: Path, evaluate_photographs: Evaluate
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("images/**/*.png")}
    known = _results(folder)
    again = evaluate_photographs(folder, subjects, "--json")
    assert again.exit_code == 0, again.output
    assert "0 tokens to train and 0 images to generate" in again.stderr
    assert _results(folder) == known
    assert json.loads(again.stdout)["rows"] == known["rows"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_after_a_stop_it_ends_with_the_same_scores(
    ran: Result,
    folder: Path,
    subjects: Path,
    tmp_path: Path,
    evaluate_photographs: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after a few images, and among the lines of a batch's scores."""
    evaluate, batches = ImageEvaluator._evaluate, []

    def until_it_breaks(self: ImageEvaluator, batch: list[object]) -> None:
        batches.append(batch)
        if len(batches) == 5:
            raise KeyboardInterrupt
        evaluate(self, batch)

    monkeypatch.setattr(ImageEvaluator, "_evaluate", until_it_breaks)
    stopped = evaluate_photographs(tmp_path / "stopped", subjects)
    assert stopped.exit_code != 0
    monkeypatch.undo()
    file = tmp_path / "stopped" / "scores.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert 0 < len(lines) < 32
    file.write_text("".join(lines[:-1]) + lines[-1][:20])
    again = evaluate_photographs(tmp_path / "stopped", subjects)
    assert again.exit_code == 0, again.output
    assert _scores(tmp_path / "stopped") == _scores(folder)
    assert _results(tmp_path / "stopped") == _results(folder)


def test_kappas_are_rows_of_the_same_folder(
    ran: Result, folder: Path, subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    shutil.copytree(folder, tmp_path / "more")
    options = ("--methods", "dti,ti", "--kappa", "5e-5", "--kappa", "0.5", "--json")
    found = json.loads(evaluate_photographs(tmp_path / "more", subjects, *options).stdout)
    assert [row["title"] for row in found["rows"]] == ["TI", "DTI, κ = 5e-05", "DTI, κ = 0.5"]
    assert len(found["differences"]) == 2
    known = {row["name"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert found["rows"][0] == known["ti"]
    assert found["rows"][1]["subject_score"] != found["rows"][2]["subject_score"]


def test_another_study_is_refused_in_the_same_folder(
    ran: Result, folder: Path, subjects: Path, evaluate_photographs: Evaluate
) -> None:
    refused = evaluate_photographs(folder, subjects, "--seed", "7")
    assert refused.exit_code == 2
    assert "other options or weights" in refused.stderr


def test_photos_without_masks_are_never_mixed_with_others(
    make_subjects: Callable[..., Path], tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    done = evaluate_photographs(tmp_path / "out", make_subjects(masks=2), "--methods", "word")
    assert done.exit_code == 0, done.output
    assert "only 2 of 3 photos have masks" in done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not found["is_masked"]
    assert found["rows"][0]["masked_subject_score"] is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Image, masked" not in text
    assert "**not masked**" in text
    assert "photos without masks: ted." in text


def test_the_miniature_and_a_missing_folder_are_refused_with_what_to_do(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    refused = evaluate_photographs(tmp_path, subjects, "--model", "miniature")
    assert refused.exit_code == 2
    assert "use `dti evaluate miniature`" in refused.stderr
    refused = evaluate_photographs(tmp_path, tmp_path / "none")
    assert refused.exit_code == 2
    assert "is not a folder; give one that contains a bundle per subject" in refused.stderr


def test_one_subject_and_unknown_methods_are_refused_at_once(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    one = tmp_path / "one"
    shutil.copytree(subjects / "rex", one / "rex")
    refused = evaluate_photographs(tmp_path / "out", one)
    assert refused.exit_code == 2
    assert "at least 2 bundles" in refused.stderr
    refused = evaluate_photographs(tmp_path / "out", subjects, "--methods", "dti,crossinit")
    assert refused.exit_code == 2
    assert (
        "unknown method 'crossinit'; known methods are word, ti, ti-rescaled, cross-init, dti"
        in (refused.stderr)
    )


def test_a_word_that_the_model_does_not_know_is_refused_before_anything_is_trained(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    shutil.copytree(subjects, tmp_path / "subjects")
    path = tmp_path / "subjects" / "rex" / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_noun": " "}))
    refused = evaluate_photographs(tmp_path / "out", tmp_path / "subjects")
    assert refused.exit_code == 2
    assert "no usable rows in the vocabulary" in refused.stderr
    assert not (tmp_path / "out" / "tokens").exists()


def test_missing_scorers_are_refused_before_anything_is_trained(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    refused = evaluate_photographs(tmp_path / "out", subjects, "--dinov2", str(tmp_path / "none"))
    assert refused.exit_code == 2
    assert "there is no scorer at" in refused.stderr
    assert not (tmp_path / "out" / "tokens").exists()


# How many are trained at a time

MEASURING = "measuring how many subjects fit"
SHORT = ("--methods", "dti", "--num-image-seeds", "1")


class Noting:
    """A backbone that trains only if it recomputes, and notes what it is asked to do."""

    recompute = False

    def __init__(self, backbone: Backbone, *, is_tight: bool = False) -> None:
        self._backbone, self._is_tight = backbone, is_tight
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, *inputs: Any) -> Tensor:
        is_training = torch.is_grad_enabled()
        if is_training and self._is_tight and not self.recompute:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.done.append("train" if is_training else "generate")
        return self._backbone.denoise(*inputs)

    def compile(self) -> None:
        self.done.append("compile")


def _slots(folder: Path) -> int:
    return json.loads((folder / "slots.json").read_text())["slots"]


def test_auto_measures_how_many_fit_and_continues_with_that_number(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    first = evaluate_photographs(tmp_path, subjects, *SHORT, "--slots", "auto")
    assert first.exit_code == 0, first.output
    assert MEASURING in first.stderr
    assert _slots(tmp_path) in (1, 2)
    (tmp_path / "slots.json").write_text('{"slots": 5}')
    more = evaluate_photographs(
        tmp_path, subjects, *SHORT[2:], "--methods", "ti", "--slots", "auto"
    )
    assert more.exit_code == 0, more.output
    assert "5 at a time, as this study began" in more.stderr
    assert MEASURING not in more.stderr
    assert "--slots 5 " in (tmp_path / "report.md").read_text()
    report = evaluate_photographs(
        tmp_path, subjects, *SHORT[2:], "--methods", "cross-init", "--slots", "2"
    )
    assert report.exit_code == 0, report.output
    assert _slots(tmp_path) == 2


def test_nothing_is_measured_where_nothing_is_trained(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    done = evaluate_photographs(tmp_path, subjects, *SHORT, "--methods", "word", "--slots", "auto")
    assert done.exit_code == 0, done.output
    assert "0 tokens to train and 4 images to generate" in done.stderr
    assert MEASURING not in done.stderr
    assert not (tmp_path / "slots.json").exists()
    assert "--slots auto " in (tmp_path / "report.md").read_text()


def test_a_model_that_does_not_fit_otherwise_is_made_to_recompute(
    subjects: Path,
    tmp_path: Path,
    tiny_backbone: Backbone,
    evaluate_photographs: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tight = Noting(tiny_backbone, is_tight=True)
    monkeypatch.setattr(command, "open_backbone", lambda *_, **__: tight)
    done = evaluate_photographs(tmp_path, subjects, *SHORT, "--slots", "auto")
    assert done.exit_code == 0, done.output
    assert "memory is short" in done.stderr
    assert tight.recompute


def test_the_model_is_compiled_once_the_number_is_chosen(
    subjects: Path,
    tmp_path: Path,
    tiny_backbone: Backbone,
    evaluate_photographs: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Noting(tiny_backbone)
    monkeypatch.setattr(command, "open_backbone", lambda *_, **__: model)
    chosen = photograph_study.choose_slots

    def choose(*arguments: Any, **named: Any) -> int:
        assert model.recompute
        slots = chosen(*arguments, **named)
        model.done.append("chosen")
        return slots

    monkeypatch.setattr(photograph_study, "choose_slots", choose)
    options = ("--slots", "auto", "--recompute", "--compile")
    done = evaluate_photographs(tmp_path, subjects, *SHORT, *options)
    assert done.exit_code == 0, done.output
    chosen_at = model.done.index("chosen")
    assert "train" in model.done[:chosen_at]
    assert "train" in model.done[chosen_at:]
    assert model.done[chosen_at + 1] == "compile"
    assert model.done.count("compile") == 1
    assert "photographs --recompute --compile --" in (tmp_path / "report.md").read_text()


def test_a_damaged_number_of_slots_is_refused(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    (tmp_path / "slots.json").write_text('{"slots": 0}')
    refused = evaluate_photographs(tmp_path, subjects, *SHORT, "--slots", "auto")
    assert refused.exit_code == 2
    assert "slots.json' cannot be read; remove it" in refused.stderr


# What is refused before weights are looked for


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--slots", "0"), "--slots must be auto or a number"),
        (("--kappa", "inf"), "kappa"),
        (("--seed", "4294967296"), "first_training_seed"),
        (("--recipe", "none"), "recipe"),
        (("--dinov2", "none"), "there is no scorer at 'none'"),
    ],
)
def test_invalid_options_are_refused_before_a_model_is_downloaded(
    options: tuple[str, str],
    reason: str,
    subjects: Path,
    tmp_path: Path,
    evaluate_photographs: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(checkpoint, "_download", download)
    refused = evaluate_photographs(tmp_path, subjects, "--model", "sdxl", *options)
    assert refused.exit_code == 2, refused.output
    assert reason in refused.stderr


def test_a_hub_name_is_reported_with_its_revision(
    tiny_checkpoint: Path,
    subjects: Path,
    tmp_path: Path,
    evaluate_photographs: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "_download", lambda *_: tiny_checkpoint)
    options = ("--model", "sd15@main", "--methods", "word", "--num-image-seeds", "1")
    done = evaluate_photographs(tmp_path, subjects, *options)
    assert done.exit_code == 0, done.output
    assert "--model sd15@main --" in (tmp_path / "report.md").read_text()


def test_an_image_that_was_deleted_is_named_with_what_to_do(
    subjects: Path, tmp_path: Path, evaluate_photographs: Evaluate
) -> None:
    options = ("--methods", "word", "--num-image-seeds", "1")
    assert evaluate_photographs(tmp_path, subjects, *options).exit_code == 0
    before = (tmp_path / "sheet.png").read_bytes()
    image = tmp_path / "images/word/rex/prompt01-training0-image0.png"
    image.unlink()
    refused = evaluate_photographs(tmp_path, subjects, *options)
    assert refused.exit_code == 2
    assert f"the image '{image}' is scored but cannot be read" in refused.stderr
    assert "remove its line from scores.jsonl" in refused.stderr
    lines = (tmp_path / "scores.jsonl").read_text().splitlines(keepends=True)
    remaining = [line for line in lines if "word/rex/prompt01" not in line]
    (tmp_path / "scores.jsonl").write_text("".join(remaining))
    assert evaluate_photographs(tmp_path, subjects, *options).exit_code == 0
    assert (tmp_path / "sheet.png").read_bytes() == before
