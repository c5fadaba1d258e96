"""Parts of tiny diffusion models that several fixtures share: real classes, random weights."""

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel


def tiny_unet(**options: Any) -> UNet2DConditionModel:
    """Return a denoiser of latents of 8 x 8."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        **options,
    )


def tiny_autoencoder(**options: Any) -> AutoencoderKL:
    """Return an autoencoder of images of 16 x 16 pixels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )
