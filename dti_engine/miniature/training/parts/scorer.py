"""How the scorer is trained: on drawn pictures, as they are, through the VAE, and with noise."""

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from dti_engine.miniature.labels import mark
from dti_engine.miniature.painting import decode, posterior
from dti_engine.miniature.pixels import to_pixels
from dti_engine.miniature.scorer import Scorer
from dti_engine.miniature.training.dataset import batch_indices
from dti_engine.miniature.training.loop import LossOf, StepLoss

_NOISE = 0.15  # the largest deviation of the added noise, where pixels span 2
_SHOWN = (
    "style",
    "background",
    "centre.kind",
    "centre.primary",
    "centre.accessory",
    "centre.pattern",
)


def make_scorer_loss(
    scorer: Scorer,
    vae: AutoencoderKL,
    drawn: np.ndarray,
    answers: Tensor,
    batch_size: int,
    device: torch.device,
) -> LossOf:
    """Over batches of drawn pictures (N, SIZE, SIZE, 3) uint8 and their answers (N, questions).

    A third of each batch passes through the VAE, as every painting does; a third gets noise.
    """
    third = batch_size // 3

    def loss_of(step: int) -> StepLoss:
        generator = torch.Generator().manual_seed(5_000_000_029 + step)
        chosen = np.sort(batch_indices(step, batch_size, len(drawn), stream=4))
        order = torch.randperm(batch_size, generator=generator)
        pixels = to_pixels(drawn[chosen])[order].to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            latents = posterior(vae, pixels[:third]).mean
            pixels[:third] = decode(vae, latents).float().clamp(-1, 1)
        noise = torch.randn(pixels[third : 2 * third].shape, generator=generator)
        strength = _NOISE * torch.rand(third, 1, 1, 1, generator=generator)
        pixels[third : 2 * third] += (strength * noise).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = scorer(pixels.contiguous(memory_format=torch.channels_last))
        marking = mark(logits, answers[chosen][order].to(device))
        return StepLoss(
            marking.loss / 8, {question: marking.right[question] for question in _SHOWN}
        )

    return loss_of
