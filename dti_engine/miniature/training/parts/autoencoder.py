"""The miniature's VAE, diffusers' AutoencoderKL: 64 x 64 pixels, 16 x 16 latents of 4 channels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from dti_engine.miniature.painting import decode, posterior
from dti_engine.miniature.pixels import to_pixels
from dti_engine.miniature.training.dataset import batch_indices
from dti_engine.miniature.training.loop import LossOf, StepLoss
from dti_engine.miniature.world.canvas import SIZE

KL_WEIGHT = 1e-4  # per latent number; keeps latents near unit scale without blurring
_CHUNK = 256  # pictures encoded together


def new_autoencoder() -> AutoencoderKL:
    """Randomly initialised. Few channels at full size: that is where the time goes."""
    build: Any = AutoencoderKL  # its annotations allow for a single block
    return build(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def autoencoder_loss(vae: AutoencoderKL, pixels: Tensor) -> StepLoss:
    """Errors of the pixels and of their differences, which are edges, plus a little KL.

    pixels: (B, 3, SIZE, SIZE) in [-1, 1].
    """
    latents = posterior(vae, pixels)
    error = decode(vae, latents.sample()).float() - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = latents.kl().mean() / latents.mean[0].numel()
    loss = error.abs().mean() + 0.5 * edges + 0.5 * error.square().mean() + KL_WEIGHT * kl.float()
    psnr_db = float(10 * torch.log10(4.0 / error.detach().square().mean()))
    return StepLoss(loss, {"psnr_db": psnr_db, "kl": float(kl.detach())})


def make_autoencoder_loss(
    vae: AutoencoderKL, drawn: np.ndarray, batch_size: int, device: torch.device
) -> LossOf:
    """Over batches of drawn pictures (N, SIZE, SIZE, 3) uint8."""

    def loss_of(step: int) -> StepLoss:
        chosen = batch_indices(step, batch_size, len(drawn), stream=1)
        pixels = to_pixels(drawn[np.sort(chosen)]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            return autoencoder_loss(vae, pixels)

    return loss_of


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Write the `scaling_factor` that gives latents unit deviation into the VAE's config."""
    latents = torch.cat([posterior(vae, chunk).mean for chunk in pixels.split(64)])
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 5))


@torch.no_grad()
def encode_pictures(
    vae: AutoencoderKL,
    drawn: np.ndarray,
    device: torch.device,
    *,
    on_pictures: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """(N, SIZE, SIZE, 3) uint8 -> (N, 4, 16, 16) half-precision posterior means, scaled."""
    means: list[Tensor] = []
    for start in range(0, len(drawn), _CHUNK):
        pixels = to_pixels(drawn[start : start + _CHUNK])
        pixels = pixels.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            means.append(posterior(vae, pixels).mean.float().cpu())
        on_pictures(start + len(pixels))
    return (torch.cat(means) * vae.config["scaling_factor"]).half()
