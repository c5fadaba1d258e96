"""The miniature in use through plain diffusers: generate, encode and decode."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from dti_engine.miniature.world.scenery import SIZE


def to_pixels(drawn: np.ndarray) -> Tensor:
    """Convert (B, SIZE, SIZE, 3) uint8 to (B, 3, SIZE, SIZE) float in [-1, 1]."""
    assert drawn.shape[1:] == (SIZE, SIZE, 3)
    levels = torch.from_numpy(np.ascontiguousarray(drawn)).permute(0, 3, 1, 2).float()
    return levels.div(127.5).sub(1.0)


def open_pipeline(weights: Path, device: torch.device) -> StableDiffusionPipeline:
    """Open the model as any user of diffusers does, in single precision."""
    pipeline_class: Any = StableDiffusionPipeline  # its annotations lack `from_pretrained`
    pipeline = pipeline_class.from_pretrained(
        weights,
        safety_checker=None,
        dtype=torch.float32,
        low_cpu_mem_usage=False,  # True would need accelerate
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def generate(
    pipeline: StableDiffusionPipeline,
    captions: Sequence[str],
    *,
    steps: int,
    guidance: float,
    batch_size: int,
    on_images: Callable[[int], None] = lambda done: None,
) -> list[Image.Image]:
    """Return one image per caption; image i starts from the noise of seed i."""
    call: Any = pipeline
    generated_images: list[Image.Image] = []
    for start in range(0, len(captions), batch_size):
        batch = list(captions[start : start + batch_size])
        seeds = range(start, start + len(batch))
        generated_images += call(
            prompt=batch,
            num_inference_steps=steps,
            guidance_scale=guidance,
            # One generator per image, on the CPU: its noise depends on neither device nor batch.
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images
        on_images(len(generated_images))
    return generated_images


def posterior(vae: AutoencoderKL, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Return the posterior of the latents (B, 4, 16, 16), unscaled.

    pixels: (B, 3, SIZE, SIZE) in [-1, 1].
    """
    return cast(AutoencoderKLOutput, vae.encode(pixels)).latent_dist


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode unscaled latents (B, 4, 16, 16) to pixels (B, 3, SIZE, SIZE), about in [-1, 1]."""
    return cast(DecoderOutput, vae.decode(cast(torch.FloatTensor, latents))).sample


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKL, generated_images: Sequence[Image.Image], *, batch_size: int
) -> list[Image.Image]:
    """Return the images after encoding and decoding by the VAE."""
    restored: list[Image.Image] = []
    for start in range(0, len(generated_images), batch_size):
        drawn = np.stack(
            [np.asarray(each) for each in generated_images[start : start + batch_size]]
        )
        pixels = decode(vae, posterior(vae, to_pixels(drawn).to(vae.device)).mean)
        levels = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu()
        restored += [Image.fromarray(each) for each in levels.permute(0, 2, 3, 1).numpy()]
    return restored
