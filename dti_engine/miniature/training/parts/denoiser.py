"""The miniature's denoiser: a UNet2DConditionModel on 16 x 16 latents that predicts velocity."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from dti_engine.miniature.training.dataset import batch_indices
from dti_engine.miniature.training.loop import LossOf, StepLoss
from dti_engine.miniature.training.parts.text_encoder import HIDDEN

UNNAMED_SHARE = 0.1  # captions dropped, so that the model can be guided


def new_denoiser(channels: tuple[int, int]) -> UNet2DConditionModel:
    """Randomly initialised. Cross-attention at 8 x 8 only: it names things, convolutions at 16 x 16
    draw them.
    """
    build: Any = UNet2DConditionModel  # its `to` is annotated as a function without `self`
    return build(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled so that the last step is pure noise; otherwise no picture
    is very dark.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # of no effect with this spacing; diffusers' pipeline insists on it
        clip_sample=False,
        set_alpha_to_one=True,
    )


@dataclass(frozen=True, eq=False)
class EncodedWorld:
    """What the denoiser learns from.

    latents: (N, 4, 16, 16) pictures, hidden: (N, LENGTH, HIDDEN) their captions, unnamed: (LENGTH,
    HIDDEN) the empty caption; all encoded.
    """

    latents: Tensor
    hidden: Tensor
    unnamed: Tensor


def make_denoiser_loss(
    unet: UNet2DConditionModel, world: EncodedWorld, batch_size: int, device: torch.device
) -> LossOf:
    """Mean squared error of the velocity. Times are stratified: one from each of batch_size equal
    ranges.
    """
    alphas = new_scheduler().alphas_cumprod.to(device)
    if device.type == "cpu":
        # The fused attention is made for long sequences; on 64 positions its backward pass alone
        # took a sixth of a step.
        unet.set_attn_processor(AttnProcessor())

    def loss_of(step: int) -> StepLoss:
        generator = torch.Generator().manual_seed(3_000_000_007 + step)
        chosen = torch.from_numpy(batch_indices(step, batch_size, len(world.latents), stream=3))
        clean = world.latents[chosen].float().to(device)
        hidden = world.hidden[chosen].float()
        hidden[torch.rand(batch_size, generator=generator) < UNNAMED_SHARE] = world.unnamed
        noise = torch.randn(clean.shape, generator=generator).to(device)
        strata = torch.arange(batch_size) + torch.rand(batch_size, generator=generator)
        timesteps = (strata / batch_size * len(alphas)).long().to(device)
        a = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            predicted = unet(noisy, timesteps, hidden.to(device)).sample
        errors = (predicted.float() - velocity).square().mean(dim=(1, 2, 3))
        return StepLoss(errors.mean(), _by_noise(errors.detach(), timesteps))

    return loss_of


def _by_noise(errors: Tensor, timesteps: Tensor) -> dict[str, float]:
    """Mean errors at high and at low noise: the first tell how well captions are obeyed."""
    high = timesteps >= 500
    return {"noisy": float(errors[high].mean()), "clear": float(errors[~high].mean())}
