"""What the families with a UNet and a KL autoencoder share: Stable Diffusion 1, 2 and XL.

Denoisers compiled for every shape that they meet.
"""

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

_MOST_SHAPES = 64  # of slots, images at once and lengths of prompts, in training and generating


def compile_in_place(denoiser: nn.Module) -> None:
    """Have it compiled when it is called with a shape for the first time: minutes, each time.

    torch gives up after 8 shapes, for the whole process, and goes on without any compiled code.
    """
    import torch._dynamo.config as dynamo  # takes a second

    limits: Any = dynamo
    limits.recompile_limit = max(limits.recompile_limit, _MOST_SHAPES)
    denoiser.compile(dynamic=False)


# Fused attention is made for long sequences. On a CPU and few positions, plain products are faster,
# the backward pass most of all; on many, they would need too much memory.
_SMALL_LATENTS = 32


class UNetBackbone:
    """All of `Backbone` but reading prompts and denoising, which its subclasses add.

    UNet and autoencoder compute in the dtype that they were loaded in.
    """

    def __init__(
        self,
        name: str,
        text_encoders: Mapping[str, TextEncoder],
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler_config: Mapping[str, Any],
    ) -> None:
        """Parts are frozen and on one device; scheduler_config is that of any diffusers scheduler.

        Raises: ModelLoadError if the parts do not fit, or the objective is not supported.
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
        training: Any = DDIMScheduler.from_config(self._scheduler_config)
        self.objective: Objective = objective_from_scheduler(
            training.config["prediction_type"], training.alphas_cumprod.to(self.device)
        )

    @property
    def recompute(self) -> bool:
        return self._unet.is_gradient_checkpointing

    @recompute.setter
    def recompute(self, wanted: bool) -> None:
        if wanted:
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
        """DDIM with the betas, spacing and offset of the checkpoint's scheduler, of any class."""
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
    """Raises: ModelLoadError if it is missing or damaged."""
    # The other way of loading needs accelerate, which is not a dependency.
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
    """It encodes in float32, as a subject's images are encoded once and learned from in every
    step; it decodes in dtype, or in float32 where it says that it overflows in float16.

    Raises: ModelLoadError if it is missing or damaged.
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
    """Raises: ModelLoadError if it is missing or damaged."""
    stated = cast(dict[str, Any], checkpoint.read("scheduler", DDIMScheduler.load_config))
    # DDIM clips to [-1, 1] unless told otherwise, as it was made for pixels: latents go beyond.
    return {"clip_sample": False, **stated}


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _order_channels(model: nn.Module, device: torch.device) -> None:
    """Tensor cores take convolutions with channels last, and would have them turned each time."""
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _require_fit(
    encoders: Mapping[str, TextEncoder], unet: UNet2DConditionModel, vae: AutoencoderKL
) -> None:
    channels, latent_channels = unet.config["in_channels"], vae.config["latent_channels"]
    if channels != latent_channels:
        raise ModelLoadError(
            f"the UNet takes {channels} channels, the autoencoder makes {latent_channels}; "
            "inpainting and depth models are not supported, use a text-to-image checkpoint"
        )
    made = sum(encoder.dim for encoder in encoders.values())
    if unet.config["cross_attention_dim"] != made:
        raise ModelLoadError(
            f"the UNet reads text of dimension {unet.config['cross_attention_dim']}, the text "
            f"encoders {', '.join(encoders)} make {made}; the parts are of different checkpoints"
        )
