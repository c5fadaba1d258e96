"""How much memory a device has left, and how much is in use at most. All in bytes.

CUDA: the device's, as torch's allocator counts it. Any other device: that of this process, and what
its machine and its control groups (containers) leave to it.

What to compute on and in: the names that people give, and what `auto` means here.
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


_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


class _Cgroup(NamedTuple):
    """What a version of control groups calls its files and the reclaimable part of `usage`."""

    limit: str
    usage: str
    reclaimable: str


_V1 = _Cgroup("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Cgroup("memory.max", "memory.current", "inactive_file")


def available(device: torch.device) -> int:
    """What may be taken in addition to what is in use, until memory runs out."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # The allocator keeps what was freed, and hands it out again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host_available()


def in_use(device: torch.device) -> int:
    """Now: allocated on the device, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _largest()


def peak(device: torch.device) -> int:
    """The largest `in_use` since `reset_peak`; where that is not possible, of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or _largest()


def reset_peak(device: torch.device) -> None:
    """Let `peak` start from what is in use now, if the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def release(device: torch.device) -> None:
    """Give back what nobody holds any more, so that others can take it and `in_use` is true."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with suppress(
        OSError, AttributeError
    ):  # glibc keeps freed memory too; others have no such call
        ctypes.CDLL(None).malloc_trim(0)


def has_run_out(error: BaseException) -> bool:
    """Whether it says that there is no memory left. On a CPU, torch has no class for that."""
    is_torch = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_torch or isinstance(error, torch.OutOfMemoryError | MemoryError)


def host_available(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """The least of what the machine and every control group above this process leave to it."""
    return min([_machine_available(proc), *_cgroups_available(proc, cgroups)])


def _machine_available(proc: Path) -> int:
    with suppress(OSError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    # Not Linux: nobody says what is free, and half of what there is mostly is.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _cgroups_available(proc: Path, cgroups: Path) -> Iterator[int]:
    """Of each group that has a limit; it holds for all of its groups together."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        # In a container, the path may be one that only its host can see; the group is the root.
        parts = PurePosixPath(path).parts[1:]
        for depth in range(len(parts) + 1 if ".." not in parts else 1):
            with suppress(OSError, ValueError):  # no such group, or its limit is "max"
                yield _left(root.joinpath(*parts[:depth]), names)


def _left(group: Path, names: _Cgroup) -> int:
    """Raises: OSError, ValueError if there is no limit."""
    limit = int((group / names.limit).read_text())
    usage = int((group / names.usage).read_text())
    pairs = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = sum(int(value) for name, value in pairs if name == names.reclaimable)
    return max(0, limit - usage + reclaimable)


def _status(name: str) -> int | None:
    """A size that Linux tells of this process; None elsewhere."""
    with suppress(OSError):
        for line in (_PROC / "self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


def _largest() -> int:
    """The most that was resident since the process began."""
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest  # KB but on a Mac
