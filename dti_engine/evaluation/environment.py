"""What an evaluation ran on, for its results; nothing that names the machine itself."""

import os
import platform
from importlib.metadata import version

import torch

from dti_engine import __version__
from dti_engine.backbones.interface import Backbone

_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")


def environment(backbone: Backbone) -> dict[str, str]:
    """Versions, the model, and the kind of machine."""
    device = backbone.device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "dti_engine": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "model": backbone.name,
        "model fingerprint": backbone.fingerprint,
        "device": f"{device.type} ({named})",
        "CPU cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
