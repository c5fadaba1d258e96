"""Selection of device and dtype, and the memory of a device: free, used and peak, in bytes.

Memory of a CUDA device is what torch's allocator counts. Memory of any other device is that of this
process, bounded by the machine and by its control groups (containers).
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from dti_engine.config import DtypeName
from dti_engine.errors import ConfigurationError

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def find_device(name: str) -> torch.device:
    """Return the torch device of that name; "auto" is CUDA if there is a GPU, else the CPU.

    Raises: ConfigurationError if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # A valid name may be of a device that is missing, busy or full: only an allocation tells.
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # not there, no such name, not compiled in
        raise ConfigurationError(
            f"device {name!r} cannot be used here; give auto, cpu, cuda or cuda:N"
        ) from error
    return device


def find_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the dtype of that name; "auto" is bfloat16 on hardware that has it, else float32.

    A device that only emulates bfloat16 is faster in float32.
    """
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Ampere, the first with bfloat16 in its tensor cores. Torch reports support on older GPUs
        # too, where it is emulated.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Without these instructions, a CPU converts to float32 and back in every operation. Older
        # versions of torch do not report the CPU's instruction sets.
        capabilities = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
        return any(capabilities.get(name) for name in _BFLOAT16_INSTRUCTIONS)
    return False


class _Cgroup(NamedTuple):
    """File names of one version of control groups, and its name of reclaimable memory."""

    limit: str
    usage: str
    reclaimable: str


_V1 = _Cgroup("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Cgroup("memory.max", "memory.current", "inactive_file")


def free_memory(device: torch.device) -> int:
    """Return how much more can be allocated before memory runs out."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch's caching allocator keeps freed blocks and hands them out again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_host_memory()


def used_memory(device: torch.device) -> int:
    """Return what is allocated on the device now, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _peak_resident()


def peak_memory(device: torch.device) -> int:
    """Return the largest `used_memory` since `reset_peak_memory`.

    Where the system cannot reset the peak, it is that of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or _peak_resident()


def reset_peak_memory(device: torch.device) -> None:
    """Restart `peak_memory` from what is in use now, if the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def release_memory(device: torch.device) -> None:
    """Return cached free blocks to the system, so that `used_memory` counts live ones only."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    # glibc keeps freed memory as well; other C libraries have no such call.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error says that memory ran out."""
    # On a CPU, torch raises a plain RuntimeError.
    is_torch = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_torch or isinstance(error, torch.OutOfMemoryError | MemoryError)


def free_host_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return the smallest free amount of the machine and of all control groups of this process."""
    return min([_machine_available(proc), *_cgroups_available(proc, cgroups)])


def _machine_available(proc: Path) -> int:
    with suppress(OSError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    # Outside Linux no file reports free memory; half of the total is a usual share.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _cgroups_available(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the free amount of each control group with a limit, up to the root.

    A limit of a group holds for all groups below it together, so every ancestor counts.
    """
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        # In a container, the path may exist on the host only; then the mounted root is the group.
        parts = PurePosixPath(path).parts[1:]
        for depth in range(len(parts) + 1 if ".." not in parts else 1):
            with suppress(OSError, ValueError):  # no such group, or its limit is "max"
                yield _group_available(root.joinpath(*parts[:depth]), names)


def _group_available(group: Path, names: _Cgroup) -> int:
    """Return what one control group leaves. Raises: OSError or ValueError without a limit."""
    limit = int((group / names.limit).read_text())
    usage = int((group / names.usage).read_text())
    pairs = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = sum(int(value) for name, value in pairs if name == names.reclaimable)
    # The page cache counts as usage, but the system gives it up before it refuses memory.
    return max(0, limit - usage + reclaimable)


def _status(name: str) -> int | None:
    """Return a size from Linux's /proc/self/status in bytes; None elsewhere."""
    with suppress(OSError):
        for line in (_PROC / "self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


def _peak_resident() -> int:
    """Return the largest resident size since the process began, in bytes."""
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux KB
