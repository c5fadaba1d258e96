"""The parts that both commands of `dti evaluate` share: digests of weights, and progress."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from dti_engine.backbones import checkpoint
from dti_engine.cli import study
from dti_engine.cli.study import (
    repeatable_name,
    scorer_digest,
    study_progress,
    weights_digest,
)


def _of_all(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def test_the_digest_is_of_all_weights_where_there_is_nothing_else(
    evaluation_weights: Path, tiny_checkpoint: Path
) -> None:
    assert weights_digest(evaluation_weights) == _of_all(evaluation_weights)
    assert weights_digest(tiny_checkpoint) == _of_all(tiny_checkpoint)
    assert weights_digest(checkpoint.MINIATURE) == _of_all(checkpoint.MINIATURE)


@pytest.mark.parametrize(
    "other",
    [
        "sd_xl_base_1.0.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.bf16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "safety_checker/model.safetensors",
    ],
)
def test_files_that_are_not_read_do_not_change_the_fingerprint(
    other: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).write_bytes(b"other weights")
    assert weights_digest(folder) == weights_digest(tiny_checkpoint)


@pytest.mark.parametrize("part", ["text_encoder/model", "unet/diffusion_pytorch_model", "scorer"])
def test_files_that_are_read_change_the_fingerprint(
    part: str, evaluation_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(evaluation_weights, folder)
    with (folder / f"{part}.safetensors").open("ab") as file:
        file.write(b"more")
    assert weights_digest(folder) != weights_digest(evaluation_weights)


def test_it_is_of_the_parts_that_are_downloaded() -> None:
    downloaded = {part for part in checkpoint._HUB_PARTS if not part.startswith("tokenizer")}
    assert set(study._PARTS) == downloaded | {"vae"}


def test_a_scorers_digest_is_of_its_model(tiny_scorers: Path, tmp_path: Path) -> None:
    known = scorer_digest(tiny_scorers / "dinov2-base")
    assert known == _of_all(tiny_scorers / "dinov2-base")
    shutil.copytree(tiny_scorers / "dinov2-base", tmp_path / "scorer")
    (tmp_path / "scorer" / "model.fp16.safetensors").write_bytes(b"half")
    assert scorer_digest(tmp_path / "scorer") == known
    (tmp_path / "scorer" / "model.safetensors").write_bytes(b"other")
    assert scorer_digest(tmp_path / "scorer") != known


def test_names_are_repeated_as_given_and_paths_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdxl").mkdir()
    assert repeatable_name("sdxl@v1", "stabilityai/sdxl") == "sdxl@v1"
    assert repeatable_name("sdxl", "stabilityai/sdxl") == "sdxl"
    assert repeatable_name("someone/model@v2", "someone/model") == "someone/model@v2"
    assert repeatable_name("./sdxl", "sdxl") == "sdxl"
    assert repeatable_name(str(tmp_path / "sdxl"), "sdxl") == "sdxl"


def test_the_time_left_is_estimated_from_the_work_of_this_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(study.time, "monotonic", lambda: now)
    with study_progress() as on_progress:
        on_progress("generate", 600, 1000)  # by an earlier start
        now += 20
        on_progress("generate", 604, 1000)
        now += 20
        on_progress("generate", 608, 1000)  # not said: the last line was 20 s ago
        now += 20
        on_progress("generate", 612, 1000)
        on_progress("generate", 1000, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^[\d:]{8}  ", "", line) for line in lines] == [
        "generate: 600 of 1000",
        "generate: 604 of 1000, 0:33:00 left",
        "generate: 612 of 1000, 0:32:20 left",
        "generate: 1000 of 1000",
    ]


def test_a_bar_shows_the_time_left_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is shown where a batch takes minutes, too."""
    now = 1000.0
    monkeypatch.setattr(study.time, "monotonic", lambda: now)
    monkeypatch.setattr(study.notes, "_force_terminal", True)
    with study_progress() as on_progress:
        on_progress("generate", 0, 1000)
        now += 60
        on_progress("generate", 4, 1000)
    assert "4:09:00 left" in capsys.readouterr().err
