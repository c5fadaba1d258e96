"""Weights that cannot be used are refused, and the message says what to do."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from dti_engine.backbones import checkpoint, load_backbone
from dti_engine.errors import BackboneLoadError


@pytest.fixture
def weights(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "weights"))


def test_a_folder_is_given_as_text_or_path(tiny_checkpoint: Path) -> None:
    assert load_backbone(str(tiny_checkpoint)).name == load_backbone(tiny_checkpoint).name


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneLoadError, match=r"no weights at .*diffusers layout.*hub id"):
        load_backbone(tmp_path / "nothing")


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_folder_without_an_index_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(BackboneLoadError, match=r"no readable model_index.json; give a folder"):
        load_backbone(tmp_path)


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(BackboneLoadError, match=r"convert a single .safetensors file first"):
        load_backbone(path)


def test_an_unknown_family_is_refused_and_the_known_are_named(weights: Path) -> None:
    index = json.loads((weights / "model_index.json").read_text())
    (weights / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(BackboneLoadError, match=r"for FluxPipeline; supported are .*StableDiff"):
        load_backbone(weights)


def test_a_part_of_another_class_is_refused(weights: Path) -> None:
    index = json.loads((weights / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet3DConditionModel"]
    (weights / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneLoadError, match=r"'unet' .* is a UNet3DConditionModel"):
        load_backbone(weights)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "unet", "vae", "scheduler"])
def test_a_missing_part_is_named(weights: Path, part: str) -> None:
    shutil.rmtree(weights / part)
    with pytest.raises(BackboneLoadError, match=f"no folder '{part}'; download it again"):
        load_backbone(weights)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_a_damaged_part_is_named(weights: Path, part: str) -> None:
    (path,) = (weights / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackboneLoadError, match=f"'{part}' .* cannot be read"):
        load_backbone(weights)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_weights_are_never_made_up(weights: Path, part: str) -> None:
    """Both libraries would fill in random numbers and go on."""
    (path,) = (weights / part).glob("*.safetensors")
    tensors = load_file(path)
    dropped = max(tensors)
    del tensors[dropped]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BackboneLoadError, match=f"lacks 1 weights, such as '{dropped}'"):
        load_backbone(weights)


def test_pickled_weights_are_refused(weights: Path) -> None:
    (path,) = (weights / "unet").glob("*.safetensors")
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(BackboneLoadError, match=r"'unet' .*with its .safetensors files"):
        load_backbone(weights)


def test_the_miniature_is_found_by_its_name(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "MINIATURE", tiny_checkpoint)
    assert load_backbone("miniature").name == "miniature"


def test_a_missing_miniature_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MINIATURE", tmp_path / "nothing")
    with pytest.raises(BackboneLoadError, match="make them with"):
        load_backbone("miniature")


def test_a_hub_id_that_cannot_be_downloaded_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneLoadError, match=r"'nobody/nothing' is not a folder.*the network"):
        load_backbone("nobody/nothing")


def test_only_the_parts_of_a_hub_repository_are_downloaded(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}

    def download(hub_id: str, **patterns: list[str]) -> str:
        asked.update(patterns)
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_backbone("somebody/model").name == "somebody/model"
    files = [
        "README.md",
        "model_index.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "v1-5-pruned-emaonly.safetensors",
        "v2-1_512-nonema-pruned.safetensors",
    ]
    assert list(filter_repo_objects(files, **asked)) == [
        "model_index.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors",
    ]
