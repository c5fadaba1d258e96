"""SANA and SANA 1.5: Gemma 2, a linear diffusion transformer, a deterministic autoencoder.

Source: Xie et al. 2024 (SANA), 2025 (SANA 1.5); diffusers, SanaPipeline.
"""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderDC,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch import Tensor

from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.gemma import GemmaTextEncoder, load_gemma
from dti_engine.backbones.interface import Conditioning, DiffusersScheduler, Latents, fingerprint
from dti_engine.backbones.objectives import FlowMatchingObjective, Objective
from dti_engine.backbones.unet import compile_in_place
from dti_engine.errors import ConfigurationError, ModelLoadError
from dti_engine.text.encoder import TextEncoder
from dti_engine.text.inputs import PromptBatch, Rows


class Sana:
    """A `Backbone` of the SANA family; its parts compute in the dtype they were loaded in.

    A prompt may have the instruction of diffusers' pipeline before it (`PromptEncoding`), which
    asks the text encoder to add details.
    """

    pools = False
    sampler = "Euler"

    def __init__(
        self,
        name: str,
        text_encoder: GemmaTextEncoder,
        transformer: SanaTransformer2DModel,
        vae: AutoencoderDC,
        shift: float,
    ) -> None:
        """Build the model of frozen parts on one device.

        shift: of the sampling times, as in `training.batch.draw_samples`.

        Raises:
            ModelLoadError: The parts do not fit, or the transformer is distilled.
        """
        _require_fit(text_encoder, transformer, vae)
        self._text_encoder = text_encoder
        self._transformer: Any = transformer  # diffusers annotates less than its models return
        self._vae: Any = vae
        self._shift = shift
        self._downscale = 2 ** (len(vae.config["encoder_block_out_channels"]) - 1)
        self._scale: float = vae.config["scaling_factor"]
        self._time_scale: float = transformer.config["timestep_scale"]
        self.name = name
        self.text_encoders: Mapping[str, TextEncoder] = {text_encoder.name: text_encoder}
        self.fingerprint = fingerprint(self.text_encoders)
        self.device: torch.device = self._transformer.device
        self.dtype: torch.dtype = self._transformer.dtype
        self.image_size: int = transformer.config["sample_size"] * self._downscale
        self.objective: Objective = FlowMatchingObjective()

    @property
    def recompute(self) -> bool:
        return self._transformer.is_gradient_checkpointing

    @recompute.setter
    def recompute(self, enabled: bool) -> None:
        if enabled:
            self._transformer.enable_gradient_checkpointing()
        else:
            self._transformer.disable_gradient_checkpointing()

    def compile(self) -> None:
        compile_in_place(self._transformer)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Latents:
        dtype = next(self._vae.encoder.parameters()).dtype
        latents = self._vae.encode(pixels.to(self.device, dtype)).latent.float()
        return Latents(latents * self._scale, torch.zeros_like(latents))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        dtype = next(self._vae.decoder.parameters()).dtype
        return self._vae.decode((latents / self._scale).to(dtype)).sample.float()

    def encode_prompts(
        self, prompts: PromptBatch, rows: Rows, micro_conditioning: Tensor | None = None
    ) -> Conditioning:
        encoder = self._text_encoder
        inputs = prompts.inputs[encoder.name].to(self.device)
        hidden = encoder.hidden_states(inputs, rows[encoder.name].to(self.device))
        positions = torch.arange(hidden.shape[1], device=self.device)
        return Conditioning(hidden, mask=(positions < inputs.length[:, None]).to(hidden.dtype))

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        output = self._transformer(
            noisy.to(self.dtype),
            encoder_hidden_states=conditioning.hidden.to(self.dtype),
            encoder_attention_mask=conditioning.mask,
            # The transformer does not scale its times itself; in diffusers the pipeline does.
            timestep=timesteps * self._time_scale,
        )
        return output.sample.float()

    def new_scheduler(self) -> DiffusersScheduler:
        """Return Euler's method with the shift of the model's own scheduler."""
        return cast(DiffusersScheduler, _Euler(shift=self._shift))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self._downscale * self._transformer.config["patch_size"]
        if height < 1 or width < 1 or height % factor or width % factor:
            raise ConfigurationError(
                f"height and width of an image must be positive multiples of {factor}, "
                f"got {height} x {width}"
            )
        channels: int = self._vae.config["latent_channels"]
        return channels, height // self._downscale, width // self._downscale


class _Euler(FlowMatchEulerDiscreteScheduler):
    """Euler's method with the no-op members of `DiffusersScheduler` that flow matching lacks."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample


def load(checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype) -> Sana:
    """Load the model from its folder.

    Raises:
        ModelLoadError: A part is missing, damaged or does not fit.
    """
    # low_cpu_mem_usage would need accelerate, which is not a dependency.
    options: dict[str, Any] = {"device": device, "low_cpu_mem_usage": False}
    # The encoder stays float32, since a subject's images are encoded once and used in every step.
    # The decoder does too unless dtype is bfloat16, as it overflows in float16.
    vae: Any = checkpoint.model(AutoencoderDC, "vae", dtype=torch.float32, **options)
    if dtype == torch.bfloat16:
        vae.decoder.to(dtype)
    return Sana(
        checkpoint.name,
        load_gemma(
            checkpoint,
            "text_encoder",
            "tokenizer",
            device=device,
            dtype=dtype,
            instruction=instruction(),
        ),
        checkpoint.model(SanaTransformer2DModel, "transformer", dtype=dtype, **options),
        vae,
        _read_shift(checkpoint),
    )


def instruction() -> str:
    """Return the default instruction of diffusers' pipeline before a prompt; it ends in a blank."""
    # Read off the signature, so that the text is that of the installed version of diffusers, and
    # not a copy that ages.
    stated = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"]
    return "\n".join(stated.default)


def _read_shift(checkpoint: ModelFolder) -> float:
    """Return the shift of sampling times towards noise, which schedulers name in two ways.

    Raises:
        ModelLoadError: The scheduler is missing, states no shift, or is not for flow matching.
    """
    stated: Any = checkpoint.read("scheduler", FlowMatchEulerDiscreteScheduler.load_config)
    shift = stated.get("flow_shift", stated.get("shift"))
    predicted = stated.get("prediction_type", "flow_prediction")
    if not isinstance(shift, int | float) or predicted != "flow_prediction":
        raise ModelLoadError(
            f"the scheduler of checkpoint {checkpoint.name!r} states flow_shift {shift} and "
            f"prediction_type {predicted!r}; SANA needs a number, as flow_shift or shift, and "
            "'flow_prediction'"
        )
    return float(shift)


def _require_fit(
    encoder: GemmaTextEncoder, transformer: SanaTransformer2DModel, vae: AutoencoderDC
) -> None:
    config = transformer.config
    if config["guidance_embeds"]:
        raise ModelLoadError(
            "the transformer takes the strength of guidance as an input, as the distilled "
            "SANA-Sprint does, which is not supported; use SANA or SANA 1.5"
        )
    channels = config["in_channels"], config["out_channels"], vae.config["latent_channels"]
    if len(set(channels)) > 1:
        raise ModelLoadError(
            f"the transformer takes {channels[0]} channels and makes {channels[1]}, the "
            f"autoencoder has {channels[2]}; the parts are of different models"
        )
    if config["caption_channels"] != encoder.dim:
        raise ModelLoadError(
            f"the transformer reads text of dimension {config['caption_channels']}, "
            f"{encoder.name} makes {encoder.dim}; the parts are of different models"
        )
