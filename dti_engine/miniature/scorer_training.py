"""How the scorer is trained: on drawn pictures, and on the same pictures through the VAE, softened and noisy."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dti_engine.miniature.dataset import batch_indices, to_pixels
from dti_engine.miniature.labels import labels, mark
from dti_engine.miniature.scorer import Scorer
from dti_engine.miniature.world import example


def make_scorer_loss(
    scorer: Scorer, vae: AutoencoderKL, drawn: np.ndarray, batch_size: int, device: torch.device
):
    """`loss_of(step)` for `loop.fit`. A third of each batch passes through the VAE, a third gets noise."""
    answers = torch.tensor([labels(example(seed).scene) for seed in range(len(drawn))])

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(5_000_000_029 + step)
        chosen = np.sort(batch_indices(step, batch_size, len(drawn), stream=4))
        order = torch.randperm(batch_size, generator=generator)
        pixels = to_pixels(drawn[chosen])[order].to(device)
        third = batch_size // 3
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            pixels[:third] = vae(pixels[:third]).sample.float().clamp(-1, 1)
        noise = torch.randn(pixels[third : 2 * third].shape, generator=generator).to(device)
        pixels[third : 2 * third] += (
            0.15 * torch.rand(third, 1, 1, 1, generator=generator).to(device) * noise
        )
        with torch.autocast(device.type, torch.bfloat16):
            logits = scorer(pixels.contiguous(memory_format=torch.channels_last))
        marking = mark(logits, answers[chosen][order].to(device))
        shown = (
            "style",
            "background",
            "centre.kind",
            "centre.primary",
            "centre.accessory",
            "centre.pattern",
        )
        return marking.loss / 8, {question: marking.right[question] for question in shown}

    return loss_of
