"""What to compute on and in: the names that people give, and what `auto` means here."""

import torch

from dti_engine.config import DtypeName
from dti_engine.errors import ConfigurationError

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def find_device(name: str) -> torch.device:
    """The device of that name as torch knows it; "auto" is CUDA if there is a GPU, else the CPU.

    Raises: ConfigurationError if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # not there, no such name, not compiled in
        raise ConfigurationError(
            f"device {name!r} cannot be used here; give auto, cpu, cuda or cuda:N"
        ) from error
    return device


def find_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 where the device computes in it, else float32.

    Where it only emulates bfloat16, that would be slower than float32.
    """
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older torch cannot say what the CPU can do.
        capabilities = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
        return any(capabilities.get(each) for each in _BFLOAT16_INSTRUCTIONS)
    return False
