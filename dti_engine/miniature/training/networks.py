"""The miniature's networks and their losses: autoencoder, denoiser and scorer.

The autoencoder is diffusers' AutoencoderKL, 64 x 64 pixels to 16 x 16 latents of 4 channels. The
denoiser is a UNet2DConditionModel on these latents that predicts velocity. The scorer is trained
on drawn images: unchanged, through the VAE, and with noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from dti_engine.miniature.pipeline import decode, posterior, to_pixels
from dti_engine.miniature.scorer import Scorer, mark
from dti_engine.miniature.training.loop import LossOf, StepLoss, batch_indices
from dti_engine.miniature.training.text_encoder import HIDDEN
from dti_engine.miniature.world.scenery import SIZE

KL_WEIGHT = 1e-4  # per latent value; keeps latents near unit scale without blurring
_CHUNK = 256  # images per call of the encoder


def new_autoencoder() -> AutoencoderKL:
    """Return a randomly initialised autoencoder; it has few channels at full size, for speed."""
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
    """Return the errors of pixels and of their differences (edges), plus a small KL term.

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
    """Return the loss over batches of drawn images (N, SIZE, SIZE, 3) uint8."""

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
def encode_images(
    vae: AutoencoderKL,
    drawn: np.ndarray,
    device: torch.device,
    *,
    on_images: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Encode (N, SIZE, SIZE, 3) uint8 to scaled posterior means (N, 4, 16, 16), half precision."""
    means: list[Tensor] = []
    for start in range(0, len(drawn), _CHUNK):
        pixels = to_pixels(drawn[start : start + _CHUNK])
        pixels = pixels.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            means.append(posterior(vae, pixels).mean.float().cpu())
        on_images(start + len(pixels))
    return (torch.cat(means) * vae.config["scaling_factor"]).half()


UNNAMED_SHARE = 0.1  # captions dropped, for classifier-free guidance


def new_denoiser(channels: tuple[int, int]) -> UNet2DConditionModel:
    """Return a randomly initialised denoiser with cross-attention at 8 x 8 only.

    At 8 x 8 attention decides what stands where; convolutions at 16 x 16 draw it.
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
    """Return Stable Diffusion's betas, rescaled so that the last step is pure noise.

    Otherwise no generated image would be very dark.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # has no effect with this spacing, but diffusers' pipeline requires it
        clip_sample=False,
        set_alpha_to_one=True,
    )


@dataclass(frozen=True, eq=False)
class EncodedWorld:
    """The training data of the denoiser, all of it encoded.

    latents: (N, 4, 16, 16) images, hidden: (N, LENGTH, HIDDEN) their captions, unnamed: (LENGTH,
    HIDDEN) the empty caption.
    """

    latents: Tensor
    hidden: Tensor
    unnamed: Tensor


def make_denoiser_loss(
    unet: UNet2DConditionModel, world: EncodedWorld, batch_size: int, device: torch.device
) -> LossOf:
    """Return the mean squared error of the velocity.

    Times are stratified: one from each of batch_size equal ranges.
    """
    alphas = new_scheduler().alphas_cumprod.to(device)
    if device.type == "cpu":
        # Fused attention is optimised for long sequences; on 64 positions its backward pass alone
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
    """Return the mean errors at high and low noise; the former show how captions are followed."""
    high = timesteps >= 500
    return {"noisy": float(errors[high].mean()), "clear": float(errors[~high].mean())}


_NOISE = 0.15  # largest standard deviation of the added noise; pixels span 2
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
    """Return the loss over drawn images (N, SIZE, SIZE, 3) uint8 and answers (N, questions).

    A third of each batch passes through the VAE, as every generated image does; a third gets
    noise.
    """
    third = batch_size // 3

    def loss_of(step: int) -> StepLoss:
        generator = torch.Generator().manual_seed(5_000_000_029 + step)
        chosen = np.sort(batch_indices(step, batch_size, len(drawn), stream=4))
        # Shuffled after sorting, or the thirds below would always be the lowest, the middle and the
        # highest numbers.
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
