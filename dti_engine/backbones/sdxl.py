"""Stable Diffusion XL base: a UNet with two CLIP encoders, pooled text and micro-conditioning.

The hidden states of both encoders before their last layer are concatenated; the second encoder also
gives the pooled summary of the prompt.

Source: Podell et al. 2023, sections 2.1 and 2.2; diffusers, StableDiffusionXLPipeline.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.clip import ClipTextEncoder, load_clip
from dti_engine.backbones.interface import Conditioning
from dti_engine.backbones.unet import (
    UNetBackbone,
    load_autoencoder,
    load_scheduler_config,
    load_unet,
)
from dti_engine.errors import ModelLoadError
from dti_engine.images.crops import MicroConditioning
from dti_engine.text.inputs import PromptBatch, Rows

_EMPTY_LENGTH = 2  # begin and end


class StableDiffusionXL(UNetBackbone):
    """A `Backbone` of the Stable Diffusion XL family."""

    pools = True

    def __init__(
        self,
        name: str,
        text_encoders: tuple[ClipTextEncoder, ClipTextEncoder],
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler_config: Mapping[str, Any],
        *,
        empty_is_zero: bool,
    ) -> None:
        """Build the model of its parts, as `UNetBackbone`.

        empty_is_zero: an empty prompt is encoded as zeros, as dropped captions were in training;
        diffusers does so for a negative prompt of None, and encodes an empty text normally.

        Raises:
            ModelLoadError: As `UNetBackbone`, or this is not a base model of SDXL.
        """
        named = {encoder.name: encoder for encoder in text_encoders}
        super().__init__(name, named, unet, vae, scheduler_config)
        _require_base(text_encoders, unet)
        self._first, self._second = text_encoders
        self._empty_is_zero = empty_is_zero

    def encode_prompts(
        self, prompts: PromptBatch, rows: Rows, micro_conditioning: Tensor | None = None
    ) -> Conditioning:
        inputs = {name: each.to(self.device) for name, each in prompts.inputs.items()}
        rows = {name: each.to(self.device) for name, each in rows.items()}
        first, second = self._first.name, self._second.name
        fine = self._first.penultimate(inputs[first], rows[first])
        coarse, pooled = self._second.penultimate_and_summaries(inputs[second], rows[second])
        hidden = torch.cat([fine, coarse], dim=-1)
        if self._empty_is_zero:
            # Both tokenizers have one vocabulary (`_require_base`), so the first one tells for
            # both.
            is_empty = inputs[first].length <= _EMPTY_LENGTH
            hidden = hidden.masked_fill(is_empty[:, None, None], 0.0)
            pooled = pooled.masked_fill(is_empty[:, None], 0.0)
        if micro_conditioning is None:
            micro_conditioning = torch.tensor(
                MicroConditioning.whole(self.image_size, self.image_size)
            )
        micro_conditioning = micro_conditioning.to(self.device, torch.float32).expand(
            len(hidden), -1
        )
        return Conditioning(hidden, pooled, micro_conditioning=micro_conditioning)

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.pooled is not None
        # Sizes stay float32 until the sinusoidal embedding: bfloat16 would round 3025 px to 3024.
        added = {
            "text_embeds": conditioning.pooled.to(self.dtype),
            "time_ids": conditioning.micro_conditioning,
        }
        hidden = conditioning.hidden.to(self.dtype)
        output = self._unet(noisy.to(self.dtype), timesteps, hidden, added_cond_kwargs=added)
        return output.sample.float()


def load(checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype) -> StableDiffusionXL:
    """Load the model from its folder.

    Raises:
        ModelLoadError: A part is missing, damaged or does not fit.
    """
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    return StableDiffusionXL(
        checkpoint.name,
        (
            load_clip(checkpoint, "text_encoder", "tokenizer", **options),
            load_clip(
                checkpoint,
                "text_encoder_2",
                "tokenizer_2",
                model_class=CLIPTextModelWithProjection,
                **options,
            ),
        ),
        load_unet(checkpoint, **options),
        load_autoencoder(checkpoint, **options),
        load_scheduler_config(checkpoint),
        empty_is_zero=bool(checkpoint.index.get("force_zeros_for_empty_prompt", True)),
    )


def _require_base(
    encoders: tuple[ClipTextEncoder, ClipTextEncoder], unet: UNet2DConditionModel
) -> None:
    first, second = encoders
    if first.words() != second.words():
        raise ModelLoadError(
            f"the tokenizers of {first.name!r} and {second.name!r} have different vocabularies; "
            "those of Stable Diffusion XL are the same, so one of them is of another model"
        )
    summary = second.summary_dim
    expected_dim = unet.config.get("projection_class_embeddings_input_dim")
    given_dim = (summary or 0) + len(MicroConditioning._fields) * (
        unet.config.get("addition_time_embed_dim") or 0
    )
    if unet.config.get("addition_embed_type") != "text_time" or expected_dim != given_dim:
        raise ModelLoadError(
            f"the UNet takes {expected_dim} values beside the text, a summary of {summary} and six "
            f"sizes give {given_dim}; refiners are not supported, use the base model of Stable "
            "Diffusion XL"
        )
