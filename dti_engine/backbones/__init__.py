"""Diffusion models behind one interface; a family is one module with a `load` function."""

from importlib import import_module
from pathlib import Path

import torch

from dti_engine.backbones.checkpoint import open_checkpoint
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.registry import FAMILIES


def load_backbone(
    weights: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a frozen model from a folder in the diffusers layout, by its name or by its hub id.

    dtype is that of denoiser and autoencoder, and of the layers of text encoders if it is bfloat16;
    their embedding tables and learned rows stay float32.

    Raises:
        ModelLoadError: The weights are missing, damaged or of an unsupported family.
    """
    checkpoint = open_checkpoint(weights)
    family = import_module(FAMILIES[checkpoint.pipeline])
    return family.load(checkpoint, device=torch.device(device), dtype=dtype)
