"""The miniature's denoiser: a UNet2DConditionModel on 16 x 16 latents that predicts velocity."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from dti_engine.miniature.dataset import batch_indices
from dti_engine.miniature.text import HIDDEN, Captions

UNNAMED_SHARE = 0.1  # captions dropped, so that the model can be guided


def new_denoiser(channels: tuple[int, int]) -> UNet2DConditionModel:
    """Randomly initialised. Cross-attention at 8 x 8 only: it names things, convolutions at 16 x 16 draw them."""
    return UNet2DConditionModel(
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
    """Stable Diffusion's betas, rescaled so that the last step is pure noise; otherwise no picture is very dark."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@torch.no_grad()
def encode_captions(
    encoder: CLIPTextModel, captions: Captions, path: Path, device: torch.device
) -> Tensor:
    """(N, LENGTH, HIDDEN) half precision last hidden states; cached in `path`."""
    if path.exists():
        cached = torch.load(path, weights_only=True, mmap=True)
        if len(cached) == len(captions.ids):
            return cached
    ids = torch.from_numpy(captions.ids)
    states = []
    for chunk in ids.split(256):
        with torch.autocast(device.type, torch.bfloat16):
            states.append(encoder(chunk.to(device)).last_hidden_state.half().cpu())
    hidden = torch.cat(states)
    torch.save(hidden, path)
    return hidden


def make_denoiser_loss(
    unet: UNet2DConditionModel,
    latents: Tensor,
    hidden: Tensor,
    unnamed: Tensor,
    batch_size: int,
    device: torch.device,
):
    """`loss_of(step)` for `loop.fit`: mean squared error of the velocity at stratified times.

    latents (N, 4, 16, 16), hidden (N, LENGTH, HIDDEN): pictures and their encoded captions; unnamed (LENGTH, HIDDEN):
    the encoded empty caption.
    """
    alphas = new_scheduler().alphas_cumprod.to(device)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(3_000_000_007 + step)
        chosen = torch.from_numpy(batch_indices(step, batch_size, len(latents), stream=3))
        clean = latents[chosen].float().to(device)
        state = hidden[chosen].float()
        state[torch.rand(batch_size, generator=generator) < UNNAMED_SHARE] = unnamed
        noise = torch.randn(clean.shape, generator=generator).to(device)
        strata = (
            torch.arange(batch_size) + torch.rand(batch_size, generator=generator)
        ) / batch_size
        timesteps = (strata * len(alphas)).long().to(device)
        a = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        with torch.autocast(device.type, torch.bfloat16):
            predicted = unet(
                noisy.contiguous(memory_format=torch.channels_last), timesteps, state.to(device)
            ).sample
        errors = (predicted.float() - velocity).square().mean(dim=(1, 2, 3))
        high = timesteps >= 500
        figures = {
            "noisy": float(errors.detach()[high].mean()),
            "clear": float(errors.detach()[~high].mean()),
        }
        return errors.mean(), figures

    return loss_of
