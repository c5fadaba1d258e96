"""Which source and which kind of machine made something."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

_SOURCE = Path(__file__).parents[1]  # the miniature's, its world's too
_PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")


def commit() -> str | None:
    """The last commit that changed the miniature's source; None where git does not know it."""
    try:
        revision = _git("log", "-1", "--format=%H", "--", "*.py")
        changed = _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    if not revision:
        return None
    return f"{revision}, with changes not yet committed" if changed else revision


def environment(device: torch.device) -> dict[str, str]:
    """Versions and the kind of machine; nothing that names the machine itself."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({named})",
        "CPU cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_SOURCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
