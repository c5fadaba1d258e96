"""The miniature's VAE: 64 x 64 pixels <-> 16 x 16 latents of 4 channels, diffusers' AutoencoderKL."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from dti_engine.miniature.dataset import batch_indices, to_pixels
from dti_engine.miniature.drawing import SIZE

KL_WEIGHT = 1e-4  # per latent number; keeps latents near unit scale without blurring


def new_autoencoder() -> AutoencoderKL:
    """Randomly initialised. Few channels at full size: that is where the time goes."""
    return AutoencoderKL(
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


def autoencoder_loss(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Absolute error of the pixels and of their differences (edges), plus a little KL. pixels: (B, 3, H, W)."""
    posterior = vae.encode(pixels).latent_dist
    restored = vae.decode(posterior.sample()).sample.float()
    error = restored - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    psnr = float(10 * torch.log10(4.0 / error.detach().square().mean()))
    loss = error.abs().mean() + 0.5 * edges + 0.5 * error.square().mean() + KL_WEIGHT * kl.float()
    return loss, {"psnr_db": psnr, "kl": float(kl.detach())}


def make_autoencoder_loss(
    vae: AutoencoderKL, drawn: np.ndarray, batch_size: int, device: torch.device
):
    """`loss_of(step)` for `loop.fit`."""

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = batch_indices(step, batch_size, len(drawn), stream=1)
        pixels = to_pixels(drawn[np.sort(chosen)]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            return autoencoder_loss(vae, pixels)

    return loss_of


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Write the `scaling_factor` that gives latents unit standard deviation into the VAE's config."""
    latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in pixels.split(64)])
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 5))


@torch.no_grad()
def encode_all(vae: AutoencoderKL, drawn: np.ndarray, path: Path, device: torch.device) -> Tensor:
    """(N, 4, 16, 16) half-precision posterior means, scaled; cached in `path`."""
    if path.exists():
        cached = torch.load(path, weights_only=True)
        if len(cached) == len(drawn):
            return cached
    means = []
    for start in range(0, len(drawn), 256):
        pixels = to_pixels(drawn[start : start + 256]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            means.append(vae.encode(pixels).latent_dist.mean.float().cpu())
    latents = (torch.cat(means) * vae.config.scaling_factor).half()
    torch.save(latents, path)
    return latents
