"""Stable Diffusion 1 and 2, and whatever has the same parts: CLIP, a UNet, a KL autoencoder."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from dti_engine.backbones.checkpoint import Checkpoint
from dti_engine.backbones.clip import ClipTextEncoder, load_clip
from dti_engine.backbones.interface import Conditioning, Latents, Scheduler, fingerprint
from dti_engine.errors import BackboneLoadError, ConfigurationError
from dti_engine.objectives import Objective, objective_from_scheduler
from dti_engine.prompts import PromptBatch, Rows
from dti_engine.vocabulary import TextEncoder

# Fused attention is made for long sequences. On a CPU and few positions, plain products are faster,
# the backward pass most of all; on many, they would need too much memory.
_SMALL_LATENTS = 32


class StableDiffusion:
    """Implements `Backbone`. UNet and autoencoder compute in the dtype that they were loaded in."""

    def __init__(
        self,
        name: str,
        text_encoder: ClipTextEncoder,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler_config: Mapping[str, Any],
    ) -> None:
        """Parts are frozen and on one device; scheduler_config is that of any diffusers scheduler.

        Raises: BackboneLoadError if the parts do not fit, or the objective is not supported.
        """
        _require_fit(text_encoder, unet, vae)
        self._text_encoder = text_encoder
        self._unet: Any = unet  # diffusers' annotations do not describe what its models return
        self._vae: Any = vae
        self._downscale = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self._scale: float = vae.config["scaling_factor"]
        self._shift: float = vae.config.get("shift_factor") or 0.0
        self._scheduler_config = dict(scheduler_config)
        self.name, self.pooling = name, None
        self.text_encoders: Mapping[str, TextEncoder] = {text_encoder.name: text_encoder}
        self.fingerprint = fingerprint(self.text_encoders)
        self.device: torch.device = self._unet.device
        self.dtype: torch.dtype = self._unet.dtype
        self.image_size: int = unet.config["sample_size"] * self._downscale
        training: Any = DDIMScheduler.from_config(self._scheduler_config)
        self.objective: Objective = objective_from_scheduler(
            training.config["prediction_type"], training.alphas_cumprod.to(self.device)
        )

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Latents:
        posterior = self._vae.encode(pixels.to(self.device, self._vae.dtype)).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        return Latents((mean - self._shift) * self._scale, std * self._scale)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        unscaled = latents / self._scale + self._shift
        return self._vae.decode(unscaled.to(self._vae.dtype)).sample.float()

    def encode_prompts(self, prompts: PromptBatch, rows: Rows) -> Conditioning:
        encoder = self._text_encoder
        inputs = prompts.inputs[encoder.name].to(self.device)
        return Conditioning(encoder.hidden_states(inputs, rows[encoder.name].to(self.device)))

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.hidden.to(self.dtype)
        return self._unet(noisy.to(self.dtype), timesteps, hidden).sample.float()

    def new_scheduler(self) -> Scheduler:
        """DDIM with the betas, spacing and offset of the checkpoint's scheduler, of any class."""
        return cast(Scheduler, DDIMScheduler.from_config(self._scheduler_config))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self._downscale
        if height < 1 or width < 1 or height % factor or width % factor:
            raise ConfigurationError(
                f"height and width of an image must be positive multiples of {factor}, "
                f"got {height} x {width}"
            )
        return self._vae.config["latent_channels"], height // factor, width // factor


def load(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """Raises: BackboneLoadError if a part is missing, damaged or does not fit."""
    stated = cast(dict[str, Any], checkpoint.read("scheduler", DDIMScheduler.load_config))
    # DDIM clips to [-1, 1] unless told otherwise, as it was made for pixels: latents go beyond.
    scheduler_config = {"clip_sample": False, **stated}
    # The other way of loading needs accelerate, which is not a dependency.
    options: dict[str, Any] = {"device": device, "dtype": dtype, "low_cpu_mem_usage": False}
    unet = checkpoint.model(UNet2DConditionModel, "unet", **options)
    if device.type == "cpu" and unet.config["sample_size"] <= _SMALL_LATENTS:
        unet.set_attn_processor(AttnProcessor())
    return StableDiffusion(
        checkpoint.name,
        load_clip(checkpoint, "text_encoder", "tokenizer", device=device),
        unet,
        checkpoint.model(AutoencoderKL, "vae", **options),
        scheduler_config,
    )


def _require_fit(encoder: ClipTextEncoder, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
    channels, latent_channels = unet.config["in_channels"], vae.config["latent_channels"]
    if channels != latent_channels:
        raise BackboneLoadError(
            f"the UNet takes {channels} channels, the autoencoder makes {latent_channels}; "
            "inpainting and depth models are not supported, use a text-to-image checkpoint"
        )
    if unet.config["cross_attention_dim"] != encoder.dim:
        raise BackboneLoadError(
            f"the UNet reads text of dimension {unet.config['cross_attention_dim']}, the text "
            f"encoder makes {encoder.dim}; the parts are of different checkpoints"
        )
