"""Which checkpoints the engine opens: the class of their pipeline, and the module of its family."""

from collections.abc import Mapping

FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "dti_engine.backbones.stable_diffusion",
    "StableDiffusionXLPipeline": "dti_engine.backbones.sdxl",
    "SanaPipeline": "dti_engine.backbones.sana",
}
"""Modules are imported when they are first needed; each has a `load` function."""
