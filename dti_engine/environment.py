"""What something was computed with and on, for its results."""

import os
import platform
from importlib.metadata import version

import torch

from dti_engine import __version__

_PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")


def environment(device: torch.device, **more: object) -> dict[str, str]:
    """Versions and the kind of machine, and more facts; nothing that names the machine itself."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "dti_engine": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **{name: str(fact).removeprefix("torch.") for name, fact in more.items()},
        "device": f"{device.type} ({named})",
        "CPU cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
