"""Directional Textual Inversion as a library: one token per subject, generated into any prompt.

The public names below are loaded on first use, so `import dti_engine` itself loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.artifacts.pipelines import load_token
    from dti_engine.backbones import load_backbone
    from dti_engine.config import TrainConfig
    from dti_engine.errors import DTIError
    from dti_engine.generation.pipeline import ImageRequest, generate
    from dti_engine.images.bundles.bundle import load_bundle
    from dti_engine.images.decode import load_images
    from dti_engine.recipes import recipe
    from dti_engine.subject import Subject
    from dti_engine.text.tokens import LearnedToken, mean_tokens, slerp_tokens
    from dti_engine.training.loop import train
    from dti_engine.training.result import TrainingResult

__all__ = [
    "Artifact",
    "DTIError",
    "ImageRequest",
    "LearnedToken",
    "Subject",
    "TrainConfig",
    "TrainingResult",
    "generate",
    "load_backbone",
    "load_bundle",
    "load_images",
    "load_token",
    "mean_tokens",
    "recipe",
    "slerp_tokens",
    "train",
]

_MODULES = {
    "Artifact": "artifacts.artifact",
    "DTIError": "errors",
    "ImageRequest": "generation.pipeline",
    "LearnedToken": "text.tokens",
    "Subject": "subject",
    "TrainConfig": "config",
    "TrainingResult": "training.result",
    "generate": "generation.pipeline",
    "load_backbone": "backbones",
    "load_bundle": "images.bundles.bundle",
    "load_images": "images.decode",
    "load_token": "artifacts.pipelines",
    "mean_tokens": "text.tokens",
    "recipe": "recipes",
    "slerp_tokens": "text.tokens",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
