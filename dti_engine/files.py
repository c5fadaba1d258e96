"""Files that are whole or not there.

What something was computed with and on, for its results.
"""

import os
import platform
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dti_engine import __version__
from dti_engine.errors import OutputError

if TYPE_CHECKING:
    import torch


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, its folders made if need be. Others see the old one or the new one, no part.

    Raises: OutputError if it cannot be written; nothing is left behind then.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


_PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")


def environment(device: "torch.device", **more: object) -> dict[str, str]:
    """Versions and the kind of machine, and more facts; nothing that names the machine itself."""
    import torch  # not at the top: the command line writes files without torch

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
