"""`dti report`, on what `dti train` left, and on folders that hold little."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from dti_engine.artifacts.artifact import Artifact
from dti_engine.cli.app import app

SHORT = ["--recipe", "miniature", "--set", "batch_size=1", "--set", "resolution=16", "-i", "dog"]
SHORT += ["--dtype", "float32", "--steps", "3", "--slots", "2", "--set", "captions=object"]


def _dti(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of anna and bob, who were learned, and of broken, who was not."""
    folder, random = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    for name in ("anna", "bob", "broken"):
        (folder / name).mkdir()
        for i in range(3):
            pixels = random.integers(256, size=(32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    (folder / "broken" / "0.png").write_bytes(b"no image")
    photos = [folder / name for name in ("anna", "bob", "broken")]
    named = ["--model", tiny_checkpoint, "--output", folder / "tokens", "--validation-images", "1"]
    assert _dti("train", *photos, *SHORT, *named).exit_code == 1
    return folder / "tokens"


def test_a_run_is_shown_on_a_page_beside_its_tokens(trained: Path) -> None:
    result = _dti("report", trained)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{trained / 'report.html'}\n"
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "2 of 3 subjects learned" in page
    assert "There is no scorer for this model" in page
    assert "&#39;0.png&#39;: its content is not JPEG" in page
    assert len(re.findall('<img (?:class=smooth )?src="data:image/', page)) == 2 * (2 + 2)


def test_json_tells_what_the_page_shows(trained: Path, tmp_path: Path) -> None:
    result = _dti("report", trained, "--json", "--output", tmp_path / "run.html")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert report["page"] == str(tmp_path / "run.html")
    names = re.findall(r'<tr id="row-\d+">.*?<b>(.*?)</b>', page, re.S)
    assert [each["name"] for each in report["subjects"]] == names
    assert [each["state"] for each in report["subjects"]] == ["failed", "passed", "passed"]
    for each in report["subjects"][1:]:
        assert f"{each['prior_angle_deg']:.1f}°</td>" in page
        assert f"{each['first_fixed_loss']:.3f} → {each['fixed_loss']:.3f}" in page
        assert (each["stop_reason"], each["steps_done"]) == ("budget", 3)
        assert each["length_share"] == pytest.approx(1)
        assert (trained / each["reference"]).is_file()
    assert f"{report['run']['subjects_per_hour']:.0f}</strong>" in page
    assert (report["run"]["num_slots"], report["run"]["dtype"]) == (2, "float32")


def test_tokens_without_a_log_are_shown_and_the_page_says_so(
    tmp_path: Path, artifact_of: Callable[..., Artifact]
) -> None:
    artifact_of({"text_encoder": torch.ones(1, 4)}).save(tmp_path / "rex.safetensors")
    assert _dti("report", tmp_path).exit_code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Failures, times and intermediate steps are unknown" in page
    assert "run.jsonl" in page


@pytest.mark.parametrize("name", ["empty", "nowhere", "file"])
def test_a_folder_without_a_run_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    result = _dti("report", tmp_path / name)
    assert result.exit_code == 2
    assert f"'{tmp_path / name}' holds no tokens and no log of a run" in result.stderr
    assert "--output" in result.stderr


def test_a_page_that_cannot_be_written_is_told(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    result = _dti("report", trained, "--output", tmp_path / "file" / "run.html")
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
