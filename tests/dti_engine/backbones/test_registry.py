"""Compares the catalogue with published models: sizes, names and configurations.

No weights are at hand. Witnesses are published sizes of files, which spell every name and shape of
weights in their headers, published digests of configurations, and the mapping of a converter.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sana_transformer_to_diffusers
from torch import Tensor, nn
from typer.testing import CliRunner

from dti_engine.backbones.checkpoint import MINIATURE
from dti_engine.backbones.registry import catalogue, published
from dti_engine.cli import models
from dti_engine.cli.app import app
from dti_engine.domains import DOMAINS
from dti_engine.errors import ModelLoadError

PARTS = [(model.name, part.name) for model in catalogue().values() for part in model.parts]

# Of published CLIP weights. transformers 5 has it in the class with a projection alone.
CLIP = "text_model."


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def file_size(weights: Mapping[str, Tensor], prefix: str = "") -> int:
    """Bytes of a .safetensors file with these float32 weights: its header spells names and shapes.

    Source: the safetensors format; headers are padded to a multiple of 8.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(weights.items()):
        start, end = end, end + 4 * tensor.numel()
        shape = list(tensor.shape)
        header[prefix + name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    spelled = len(json.dumps(header, separators=(",", ":")))
    return 8 + spelled + -spelled % 8 + end


def test_file_sizes_are_those_that_safetensors_writes() -> None:
    from safetensors.torch import save

    weights = {"b.weight": torch.zeros(3, 5), "a.bias": torch.zeros(7)}
    assert file_size(weights) == len(save(weights, metadata={"format": "pt"}))


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_every_part_is_built_without_memory_and_has_the_stated_size(name: str, part: str) -> None:
    model = published(name).on_meta(part)
    assert {each.device.type for each in model.parameters()} == {"meta"}
    assert not model.training
    assert not any(each.requires_grad for each in model.parameters())
    stated = published(name).part(part)
    assert type(model).__name__ == stated.class_name
    assert parameters(model) == stated.parameters
    if stated.table:
        table: Any = model
        assert table.get_input_embeddings().weight.numel() == stated.table


@pytest.mark.parametrize(
    ("name", "part", "size", "prefix"),
    [
        # runwayml/stable-diffusion-v1-5, unet/diffusion_pytorch_model.non_ema.safetensors; the EMA
        # weights beside it have 4 bytes more, from a writer that did not pad headers.
        ("sd15", "unet", 3_438_167_536, ""),
        # RoentGen-v2, a fine-tuned Stable Diffusion 2.
        ("sd21", "text_encoder", 1_361_596_304, CLIP),
        ("sd21", "unet", 3_463_726_504, ""),
        ("sd21", "vae", 334_643_268, ""),
        # stabilityai/stable-diffusion-xl-base-1.0, listed by the hub's own interface.
        ("sdxl", "text_encoder", 492_265_168, CLIP),
        ("sdxl", "text_encoder_2", 2_778_702_264, ""),
        ("sdxl", "unet", 10_270_077_736, ""),
        ("sdxl", "vae", 334_643_268, ""),
    ],
)
def test_names_and_shapes_fill_a_file_of_the_published_size(
    name: str, part: str, size: int, prefix: str
) -> None:
    assert file_size(published(name).on_meta(part).state_dict(), prefix) == size


@pytest.mark.parametrize(
    ("name", "part", "total"),
    [
        # CompVis' code, of Stable Diffusion 1: "DiffusionWrapper has 859.52 M params."
        ("sd15", "unet", 859_520_964),
        # Its README: "an 860M UNet and CLIP ViT-L/14 text encoder", of 123M.
        ("sd15", "text_encoder", 123_060_480),
        # Stability's code, of Stable Diffusion 2: "DiffusionWrapper has 865.91 M params."
        ("sd21", "unet", 865_910_724),
        # OpenCLIP-H has 354,032,641 with a last layer and a projection that are not used.
        ("sd21", "text_encoder", 354_032_641 - 12_596_224 - 1024 * 1024 - 1),
        # Counted in the headers of sd_xl_base_1.0.safetensors.
        ("sdxl", "unet", 2_567_463_684),
        # SDXL paper, table 1: text encoders of 817M, of which CLIP-L is 123M.
        ("sdxl", "text_encoder_2", 694_659_840),
        ("sdxl", "vae", 83_653_863),
        # Gemma 2 report, table 2, without embeddings; the published table has 256,000 rows.
        ("sana-1.6b", "text_encoder", 2_024_517_888 + 256_000 * 2304),
        # NVLabs' code, with the configuration of SANA 1.5 that has norms of queries and keys.
        ("sana-1.6b", "transformer", 1_604_641_952),
        # Counted in the autoencoder's file of Sana_1600M_1024px_diffusers: 375 tensors.
        ("sana-1.6b", "vae", 312_250_275),
    ],
)
def test_totals_are_those_that_others_counted(name: str, part: str, total: int) -> None:
    assert parameters(published(name).on_meta(part)) == total


# As published files have them, after the mappings of diffusers' converters.
@pytest.mark.parametrize(
    ("name", "part", "weight", "shape"),
    [
        ("sd15", "unet", "conv_in.weight", (320, 4, 3, 3)),
        ("sd15", "unet", "mid_block.attentions.0.proj_in.weight", (1280, 1280, 1, 1)),
        (
            "sd15",
            "unet",
            "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight",
            (320, 768),
        ),
        ("sd21", "unet", "mid_block.attentions.0.proj_in.weight", (1280, 1280)),
        (
            "sd21-base",
            "unet",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight",
            (320, 1024),
        ),
        ("sd21", "text_encoder", "encoder.layers.22.mlp.fc1.weight", (4096, 1024)),
        (
            "sdxl",
            "unet",
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight",
            (1280, 2048),
        ),
        ("sdxl", "unet", "add_embedding.linear_1.weight", (1280, 2816)),
        ("sdxl", "text_encoder_2", "text_projection.weight", (1280, 1280)),
        ("sdxl", "vae", "decoder.mid_block.attentions.0.to_q.weight", (512, 512)),
        ("sdxl", "vae", "quant_conv.weight", (8, 8, 1, 1)),
        ("sana-1.6b", "transformer", "caption_projection.linear_1.weight", (2240, 2304)),
        ("sana-4.8b", "transformer", "transformer_blocks.59.attn2.norm_k.weight", (2240,)),
        ("sana-1.6b", "text_encoder", "layers.25.self_attn.k_proj.weight", (1024, 2304)),
        ("sana-1.6b", "vae", "encoder.conv_out.weight", (32, 1024, 3, 3)),
    ],
)
def test_telling_weights_are_named_and_shaped_as_published(
    name: str, part: str, weight: str, shape: tuple[int, ...]
) -> None:
    assert tuple(published(name).on_meta(part).state_dict()[weight].shape) == shape


@pytest.mark.parametrize(("name", "layers"), [("sana-1.6b", 20), ("sana-4.8b", 60)])
def test_sana_has_the_weights_that_its_converter_makes(name: str, layers: int) -> None:
    """The original names and shapes have a width of 2240, and 2 x 2.5 x 2240 in the mix-FFN."""
    width, hidden = 2240, 5600
    original: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 1024, width),
        "x_embedder.proj": (width, 32, 1, 1),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "t_block.1": (6 * width, width),
        "y_embedder.y_embedding": (300, 2304),
        "y_embedder.y_proj.fc1": (width, 2304),
        "y_embedder.y_proj.fc2": (width, width),
        "attention_y_norm.weight": (width,),
        "final_layer.linear": (32, width),
        "final_layer.scale_shift_table": (2, width),
    }
    for i in range(layers):
        original |= {
            f"blocks.{i}.scale_shift_table": (6, width),
            f"blocks.{i}.attn.qkv.weight": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.cross_attn.q_linear": (width, width),
            f"blocks.{i}.cross_attn.kv_linear": (2 * width, width),
            f"blocks.{i}.cross_attn.proj": (width, width),
            f"blocks.{i}.mlp.inverted_conv.conv": (2 * hidden, width, 1, 1),
            f"blocks.{i}.mlp.depth_conv.conv": (2 * hidden, 1, 3, 3),
            f"blocks.{i}.mlp.point_conv.conv.weight": (width, hidden, 1, 1),
        }
    whole = ("pos_embed", "embedding", "table", "weight")
    weights: dict[str, Tensor] = {}
    for key, shape in original.items():
        if key.endswith(whole):
            weights[key] = torch.empty(shape, device="meta")
        else:
            weights[f"{key}.weight"] = torch.empty(shape, device="meta")
            weights[f"{key}.bias"] = torch.empty(shape[0], device="meta")
    converted = convert_sana_transformer_to_diffusers(weights)
    assert not weights
    shapes = {key: tuple(each.shape) for key, each in converted.items()}
    # Of SANA 1.5 alone, and in the converting script alone.
    for i in range(layers):
        for norm in ("attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k"):
            shapes[f"transformer_blocks.{i}.{norm}.weight"] = (width,)
    built = published(name).on_meta("transformer").state_dict()
    assert {key: tuple(each.shape) for key, each in built.items()} == shapes


# Of Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers, pinned by a public project.
@pytest.mark.parametrize(
    ("path", "digest"),
    [
        (
            "scheduler/scheduler_config.json",
            "f9256042828841b26561487c7e0c33fff8717e98ac0fef5c1f6d05bfdd66e908",
        ),
        (
            "transformer/config.json",
            "70863bf60b87cbeab5780c9827ffc5b880cd1ec9ce22bf033409b7e257e8fc68",
        ),
        ("vae/config.json", "ba6f3d3e44d75d44fdd3760097c069173b5b925e6d14604d5d3582628d09cca6"),
        (
            "text_encoder/config.json",
            "733f241a6692770dfba10383e2c5a56a4f88b320732d9ee8fa16118737eca84d",
        ),
    ],
)
def test_configurations_of_sana_are_the_published_files(path: str, digest: str) -> None:
    content = (published("sana-1.6b").folder / path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "side", "objective", "dims"),
    [
        ("sd15", 512, "noise", [768]),
        ("sd21-base", 512, "noise", [1024]),
        ("sd21", 768, "velocity", [1024]),
        ("sdxl", 1024, "noise", [768, 1280]),
        ("sana-1.6b", 1024, "flow", [2304]),
        ("sana-4.8b", 1024, "flow", [2304]),
    ],
)
def test_a_model_is_described_as_it_was_trained(
    name: str, side: int, objective: str, dims: list[int]
) -> None:
    model = published(name)
    assert (model.image_size, model.objective) == (side, objective)
    assert list(model.text_dims.values()) == dims


@pytest.mark.parametrize("name", list(catalogue()))
def test_pipeline_and_scheduler_are_of_classes_that_take_the_configuration(name: str) -> None:
    folder = published(name).folder
    index = json.loads((folder / "model_index.json").read_text())
    assert issubclass(getattr(diffusers, index["_class_name"]), diffusers.DiffusionPipeline)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == index["scheduler"][1]
    scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler")
    assert config.items() <= dict(scheduler.config).items()


def test_words_are_float32_on_the_device_and_all_else_is_bfloat16() -> None:
    encoder = published("sana-1.6b").part("text_encoder")
    table = 256_000 * 2304
    assert encoder.device_bytes == 2 * (2_614_341_888 - table) + 4 * table
    assert published("sdxl").part("unet").device_bytes == 2 * 2_567_463_684


def test_an_unknown_name_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(ModelLoadError, match=r"'sd3' here; known are sd15, .*sana-4.8b"):
        published("sd3")


def test_the_table_has_every_model_and_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models.results, "width", 80)
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert any(line[:1] == ["miniature"] for line in lines)
    for model in catalogue().values():
        row, licence = (line for line in lines if line and line[0] == model.name)
        assert row[1:3] == ["photographs", str(model.image_size)]
        assert " ".join(licence[1:]) == DOMAINS[model.name].licence
        assert [model.hub_id] in lines
    assert ["768+1280", "2.57B", "7.3", "9.3-28.5", "13.9"] in [line[3:] for line in lines]


def test_json_has_the_same_with_exact_numbers() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    miniature, *listed = json.loads(result.stdout)
    assert [model["name"] for model in listed] == list(catalogue())
    sdxl = listed[3]
    assert sdxl["hub_id"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert sdxl["parameters"]["unet"] == 2_567_463_684
    assert sdxl["text_dims"] == {"text_encoder": 768, "text_encoder_2": 1280}
    assert miniature["hub_id"] is None
    assert (miniature["learns_photographs"], miniature["class_words"][1]) == (False, "dog")
    assert (sdxl["learns_photographs"], sdxl["class_words"]) == (True, None)
    assert sdxl["licence"] == "CreativeML Open RAIL++-M"
    assert (miniature["image_size"], miniature["download_bytes"]) == (64, 0)


def test_the_miniature_is_counted_in_its_real_weights() -> None:
    from safetensors.torch import load_file

    result = CliRunner().invoke(app, ["models", "--json"])
    for part, count in json.loads(result.stdout)[0]["parameters"].items():
        (path,) = (MINIATURE / part).glob("*.safetensors")
        assert sum(each.numel() for each in load_file(path).values()) == count
