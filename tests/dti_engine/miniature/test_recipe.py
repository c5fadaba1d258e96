"""The recipe at toy size, from nothing to a folder that libraries open."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dti_engine.backbones import load_backbone
from dti_engine.miniature.training.loop import images
from dti_engine.miniature.training.stages import Stages
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import example

pytestmark = pytest.mark.slow


def test_plain_diffusers_loads_the_weights_and_generates(toy_weights: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(toy_weights, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    (subject_image,) = pipeline("a dog", num_inference_steps=2, guidance_scale=4.0).images

    assert subject_image.size == (64, 64)
    assert pipeline.text_encoder.dtype == pipeline.unet.dtype == pipeline.vae.dtype == torch.float32
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


def test_the_engine_loads_the_weights(toy_weights: Path) -> None:
    backbone = load_backbone(toy_weights)

    assert backbone.image_size == 64
    assert backbone.latent_shape(64, 64) == (4, 16, 16)
    assert backbone.text_encoders["text_encoder"].segment_ids("a dog")


def test_weights_are_in_half_precision(toy_weights: Path) -> None:
    files = sorted(toy_weights.rglob("*.safetensors"))
    dtypes = {
        weight.dtype
        for file in files
        for weight in load_file(file).values()
        if weight.is_floating_point()
    }

    assert [str(file.relative_to(toy_weights).parent) for file in files] == [
        ".", "text_encoder", "unet", "vae",
    ]  # fmt: skip
    assert dtypes == {torch.float16}


def test_facts_name_the_recipe_and_no_folder_of_the_machine(
    toy_weights: Path, toy_work: Path
) -> None:
    facts = json.loads((toy_weights / "recipe.json").read_text())

    assert facts["size"]["denoiser"]["schedule"]["steps"] == 2
    assert {name: stage["step"] for name, stage in facts["stages"].items()} == {
        "images": 48,
        "autoencoder": 2,
        "reader": 2,
        "scorer": 2,
        "latents": 32,
        "hidden": 32,
        "denoiser": 2,
    }
    for file in (*toy_weights.rglob("*.json"), *toy_weights.rglob("*.md")):
        text = file.read_text()
        assert str(toy_work) not in text
        assert str(toy_weights) not in text


@pytest.mark.usefixtures("toy_weights")
def test_a_finished_run_takes_everything_from_the_work_folder(
    run_toy: Callable[[], tuple[Stages, list[tuple[str, int, int]]]],
) -> None:
    stages, steps = run_toy()

    assert stages.denoiser.config["block_out_channels"] == (16, 32)
    assert steps == []


def test_drawn_images_are_the_examples_and_grow_with_the_requested_number(tmp_path: Path) -> None:
    few = images(tmp_path, 3)
    shards: list[tuple[int, int]] = []
    more = images(tmp_path, 5, on_shard=lambda done, total: shards.append((done, total)))

    assert shards == [(1, 1)]
    assert (more[:3] == few).all()
    for i in range(5):
        assert more[i].tobytes() == draw(example(i).scene).tobytes()
    assert images(tmp_path, 2).tobytes() == few[:2].tobytes()
