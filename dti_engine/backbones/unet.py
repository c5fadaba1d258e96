"""The common part of the families with a UNet and a KL autoencoder: Stable Diffusion 1, 2, XL."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.interface import DiffusersScheduler, Latents, fingerprint
from dti_engine.backbones.objectives import Objective, objective_from_scheduler
from dti_engine.errors import ConfigurationError, ModelLoadError
from dti_engine.text.encoder import TextEncoder

_MAX_SHAPES = 64  # numbers of slots and images, and prompt lengths, in training and generation


def compile_in_place(denoiser: nn.Module) -> None:
    """Compile a denoiser at its first call with each shape; each compilation takes minutes.

    By default torch gives up after 8 shapes and falls back to uncompiled code for the whole
    process, hence the higher limit.
    """
    import torch._dynamo.config as dynamo  # takes a second, so only where it is needed

    limits: Any = dynamo
    limits.recompile_limit = max(limits.recompile_limit, _MAX_SHAPES)
    denoiser.compile(dynamic=False)


# Fused attention is optimised for long sequences. On a CPU with few positions, plain products are
# faster, most of all in the backward pass; with many positions they need too much memory.
_SMALL_LATENTS = 32  # cells along the side


class UNetBackbone:
    """The base of a `Backbone` with a UNet; subclasses add `encode_prompts` and `denoise`.

    UNet and autoencoder compute in the dtype that they were loaded in.
    """

    sampler = "DDIM"

    def __init__(
        self,
        name: str,
        text_encoders: Mapping[str, TextEncoder],
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler_config: Mapping[str, Any],
    ) -> None:
        """Build the model of frozen parts on one device, and the config of any diffusers scheduler.

        Raises:
            ModelLoadError: The parts do not fit, or the objective is not supported.
        """
        _require_fit(text_encoders, unet, vae)
        self._unet: Any = unet  # diffusers' annotations do not describe what its models return
        self._vae: Any = vae
        self._downscale = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self._scale: float = vae.config["scaling_factor"]
        self._shift: float = vae.config.get("shift_factor") or 0.0
        self._scheduler_config = dict(scheduler_config)
        self.name = name
        self.text_encoders = text_encoders
        self.fingerprint = fingerprint(text_encoders)
        self.device: torch.device = self._unet.device
        self.dtype: torch.dtype = self._unet.dtype
        self.image_size: int = unet.config["sample_size"] * self._downscale
        # Whichever scheduler a checkpoint names for sampling, its betas and prediction type are
        # those of its training, and every diffusers scheduler reads these under the same names.
        training: Any = DDIMScheduler.from_config(self._scheduler_config)
        self.objective: Objective = objective_from_scheduler(
            training.config["prediction_type"], training.alphas_cumprod.to(self.device)
        )

    @property
    def recompute(self) -> bool:
        return self._unet.is_gradient_checkpointing

    @recompute.setter
    def recompute(self, enabled: bool) -> None:
        if enabled:
            self._unet.enable_gradient_checkpointing()
        else:
            self._unet.disable_gradient_checkpointing()

    def compile(self) -> None:
        compile_in_place(self._unet)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Latents:
        posterior = self._vae.encode(pixels.to(self.device, _dtype(self._vae.encoder))).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        return Latents((mean - self._shift) * self._scale, std * self._scale)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        unscaled = latents / self._scale + self._shift
        return self._vae.decode(unscaled.to(_dtype(self._vae.decoder))).sample.float()

    def new_scheduler(self) -> DiffusersScheduler:
        """Return DDIM with the betas, spacing and offset of the model's own scheduler."""
        return cast(DiffusersScheduler, DDIMScheduler.from_config(self._scheduler_config))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self._downscale
        if height < 1 or width < 1 or height % factor or width % factor:
            raise ConfigurationError(
                f"height and width of an image must be positive multiples of {factor}, "
                f"got {height} x {width}"
            )
        return self._vae.config["latent_channels"], height // factor, width // factor


def load_unet(
    checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype
) -> UNet2DConditionModel:
    """Load the UNet.

    Raises:
        ModelLoadError: It is missing or damaged.
    """
    # low_cpu_mem_usage would need accelerate, which is not a dependency.
    unet = checkpoint.model(
        UNet2DConditionModel, "unet", device=device, dtype=dtype, low_cpu_mem_usage=False
    )
    _order_channels(unet, device)
    if device.type == "cpu" and unet.config["sample_size"] <= _SMALL_LATENTS:
        unet.set_attn_processor(AttnProcessor())
    return unet


def load_autoencoder(
    checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype
) -> AutoencoderKL:
    """Load the autoencoder, whose two halves may have different dtypes.

    It encodes in float32, since a subject's images are encoded once and used in every step. It
    decodes in dtype, or in float32 where its config states that it overflows in float16.

    Raises:
        ModelLoadError: It is missing or damaged.
    """
    vae: Any = checkpoint.model(
        AutoencoderKL, "vae", device=device, dtype=torch.float32, low_cpu_mem_usage=False
    )
    if dtype != torch.float16 or not vae.config.get("force_upcast", True):
        for part in filter(None, (vae.decoder, vae.post_quant_conv)):
            part.to(dtype)
    _order_channels(vae, device)
    return vae


def load_scheduler_config(checkpoint: ModelFolder) -> dict[str, Any]:
    """Load the config of the scheduler.

    Raises:
        ModelLoadError: It is missing or damaged.
    """
    stated = cast(dict[str, Any], checkpoint.read("scheduler", DDIMScheduler.load_config))
    # By default DDIM clips to [-1, 1], as it was made for pixels, but latents exceed that range.
    return {"clip_sample": False, **stated}


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _order_channels(model: nn.Module, device: torch.device) -> None:
    """Store convolutions with channels last, as tensor cores take them, to save a copy per call."""
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _require_fit(
    encoders: Mapping[str, TextEncoder], unet: UNet2DConditionModel, vae: AutoencoderKL
) -> None:
    channels, latent_channels = unet.config["in_channels"], vae.config["latent_channels"]
    if channels != latent_channels:
        raise ModelLoadError(
            f"the UNet takes {channels} channels, the autoencoder makes {latent_channels}; "
            "inpainting and depth models are not supported, use a text-to-image model"
        )
    text_dim = sum(encoder.dim for encoder in encoders.values())
    if unet.config["cross_attention_dim"] != text_dim:
        raise ModelLoadError(
            f"the UNet reads text of dimension {unet.config['cross_attention_dim']}, the text "
            f"encoders {', '.join(encoders)} give {text_dim}; the parts are of different models"
        )
