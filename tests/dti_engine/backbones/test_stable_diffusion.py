"""The parts that only Stable Diffusion has: scaled latents and diffusers' schedulers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.objectives import NoiseObjective, VelocityObjective
from dti_engine.errors import ModelLoadError


@pytest.mark.parametrize("shift", [None, 0.25])
def test_latents_are_shifted_and_scaled_as_the_autoencoder_states(
    make_checkpoint: Callable[..., Path], shift: float | None
) -> None:
    weights = make_checkpoint(shift_factor=shift)
    backbone, vae = load_backbone(weights), AutoencoderKL.from_pretrained(weights / "vae")
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        expected = vae.decode(posterior.mean).sample
    latents = backbone.encode_images(pixels)
    scale, moved = vae.config.scaling_factor, posterior.mean - (shift or 0.0)
    torch.testing.assert_close(latents.mean, scale * moved)
    torch.testing.assert_close(latents.std, scale * posterior.std)
    torch.testing.assert_close(backbone.decode_latents(latents.mean), expected)


@pytest.mark.parametrize(
    ("stated", "kind"), [("epsilon", NoiseObjective), ("v_prediction", VelocityObjective)]
)
def test_the_objective_is_that_of_the_checkpoints_scheduler(
    make_checkpoint: Callable[..., Path], stated: str, kind: type
) -> None:
    weights = make_checkpoint(prediction_type=stated)
    objective = load_backbone(weights).objective
    assert isinstance(objective, kind)
    expected = DDIMScheduler.from_pretrained(weights / "scheduler").alphas_cumprod
    assert torch.equal(objective.alphas_cumprod, expected)


def test_generation_uses_ddim_whichever_scheduler_the_checkpoint_has(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """DDIM keeps its offset, and does not clip, as it would if the config did not mention it."""
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    PNDMScheduler(steps_offset=1, skip_prk_steps=True).save_pretrained(tmp_path / "scheduler")
    scheduler = load_backbone(tmp_path).new_scheduler()
    assert isinstance(scheduler, DDIMScheduler)
    assert not scheduler.config["clip_sample"]
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == list(range(901, 0, -100))


def test_an_objective_that_is_not_supported_is_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    DDIMScheduler(prediction_type="sample").save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ModelLoadError, match="prediction_type 'sample'"):
        load_backbone(tmp_path)


def test_an_ingeneration_model_is_refused_by_that_name(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    config = UNet2DConditionModel.load_config(tmp_path / "unet")
    UNet2DConditionModel.from_config(config, in_channels=9).save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelLoadError, match=r"takes 9 channels.*inpainting"):
        load_backbone(tmp_path)


def test_parts_of_different_checkpoints_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    config = UNet2DConditionModel.load_config(tmp_path / "unet")
    wider = UNet2DConditionModel.from_config(config, cross_attention_dim=48)
    wider.save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelLoadError, match=r"dimension 48.*give 32"):
        load_backbone(tmp_path)


def test_the_image_size_is_the_denoisers(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.image_size == 16
    assert tiny_backbone.latent_shape(16, 32) == (4, 8, 16)
