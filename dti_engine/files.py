"""Atomic file writes, and the description of the environment that goes with results."""

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

_PACKAGES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new content, never a part.

    Missing folders are created.

    Raises: OutputError if the file cannot be written; no temporary file stays behind.
    """
    # In the same folder: `replace` is atomic only within one file system.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive: a file or symbolic link that is already there under this name is an error.
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                # Without it, a power loss after the rename could leave an empty file.
                os.fsync(file.fileno())
            # The folder itself is not synced: after a power loss the old file may be back, but
            # whole.
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


def environment(device: "torch.device", **more: object) -> dict[str, str]:
    """Return package versions, the kind of machine and `more` facts, as text.

    Nothing identifies the machine itself, as results are published.
    """
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
