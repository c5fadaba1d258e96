"""Diffusion models behind one interface; a family is one module with a `load` function."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch

from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import BackboneLoadError

# Pipeline class of a checkpoint -> module of its family, imported when first needed.
_FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "dti_engine.backbones.stable_diffusion",
    "StableDiffusionXLPipeline": "dti_engine.backbones.sdxl",
}


def load_backbone(
    weights: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a frozen model from a folder in the diffusers layout, "miniature", or by hub id.

    dtype is that of denoiser and autoencoder; text encoders and learned rows stay float32.

    Raises: BackboneLoadError if the weights are missing, damaged or of an unsupported family.
    """
    checkpoint = open_checkpoint(weights)
    if checkpoint.pipeline not in _FAMILIES:
        raise BackboneLoadError(
            f"checkpoint {checkpoint.name!r} is for {checkpoint.pipeline}; supported are "
            f"{', '.join(sorted(_FAMILIES))}"
        )
    family = import_module(_FAMILIES[checkpoint.pipeline])
    return family.load(checkpoint, device=torch.device(device), dtype=dtype)
