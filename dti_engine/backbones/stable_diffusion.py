"""Stable Diffusion 1 and 2, and all models of the same parts: CLIP, a UNet, a KL autoencoder."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.clip import ClipTextEncoder, load_clip
from dti_engine.backbones.interface import Conditioning
from dti_engine.backbones.unet import (
    UNetBackbone,
    load_autoencoder,
    load_scheduler_config,
    load_unet,
)
from dti_engine.text.inputs import PromptBatch, Rows


class StableDiffusion(UNetBackbone):
    """A `Backbone` of the Stable Diffusion 1 and 2 family."""

    pools = False

    def __init__(
        self,
        name: str,
        text_encoder: ClipTextEncoder,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler_config: Mapping[str, Any],
    ) -> None:
        """Arguments and errors are those of `UNetBackbone`."""
        super().__init__(name, {text_encoder.name: text_encoder}, unet, vae, scheduler_config)
        self._text_encoder = text_encoder

    def encode_prompts(
        self, prompts: PromptBatch, rows: Rows, micro_conditioning: Tensor | None = None
    ) -> Conditioning:
        encoder = self._text_encoder
        inputs = prompts.inputs[encoder.name].to(self.device)
        return Conditioning(encoder.hidden_states(inputs, rows[encoder.name].to(self.device)))

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        hidden = conditioning.hidden.to(self.dtype)
        return self._unet(noisy.to(self.dtype), timesteps, hidden).sample.float()


def load(checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """Load the model from its folder.

    Raises:
        ModelLoadError: A part is missing, damaged or does not fit.
    """
    return StableDiffusion(
        checkpoint.name,
        load_clip(checkpoint, "text_encoder", "tokenizer", device=device, dtype=dtype),
        load_unet(checkpoint, device=device, dtype=dtype),
        load_autoencoder(checkpoint, device=device, dtype=dtype),
        load_scheduler_config(checkpoint),
    )
