"""Selection of device and dtype; free, used and peak memory, from Linux's files and for real."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

from dti_engine import devices
from dti_engine.devices import find_device, find_dtype, free_host_memory
from dti_engine.errors import ConfigurationError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MB, GB = 10**6, 10**9
IS_LINUX = sys.platform == "linux"


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_rejected(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' cannot be used here"):
        find_device(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_that_is_named_is_taken(dtype: torch.dtype) -> None:
    assert find_dtype(str(dtype).removeprefix("torch."), CPU) is dtype  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("instructions", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_that_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert find_dtype("auto", CPU) is dtype


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_auto_is_bfloat16_on_a_gpu_since_ampere(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert find_dtype("auto", GPU) is dtype


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """8,000,000 KiB are free, and no control group is named."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    lines = ["MemTotal:       16000000 kB", "MemFree:         1 kB", "MemAvailable:    8000000 kB"]
    (folder / "meminfo").write_text("\n".join(lines) + "\n")
    return folder


MACHINE = 8_000_000 * 1024


def _group(folder: Path, limit: int | str, usage: int, reclaimable: int, *, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit_name, usage_name, reclaimable_name = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / usage_name).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{reclaimable_name} {reclaimable}\nfile 7\n")


def test_without_control_groups_it_is_the_machines_free_memory(proc: Path, tmp_path: Path) -> None:
    assert free_host_memory(proc, tmp_path / "cgroup") == MACHINE
    (proc / "self/cgroup").write_text("0::/\n")
    assert free_host_memory(proc, tmp_path / "cgroup") == MACHINE


def test_a_control_group_leaves_its_limit_but_for_what_cannot_be_reclaimed(
    proc: Path, tmp_path: Path
) -> None:
    (proc / "self/cgroup").write_text("0::/\n")
    _group(tmp_path / "cgroup", 4 * GB, 3 * GB, GB // 2, version=2)
    assert free_host_memory(proc, tmp_path / "cgroup") == 4 * GB - 3 * GB + GB // 2


def test_the_tightest_of_all_levels_counts_and_max_is_no_limit(proc: Path, tmp_path: Path) -> None:
    (proc / "self/cgroup").write_text("0::/user/session/run\n")
    root = tmp_path / "cgroup"
    _group(root / "user", 5 * GB, GB, 0, version=2)
    _group(root / "user/session", 3 * GB, GB, 0, version=2)
    _group(root / "user/session/run", "max", GB, 0, version=2)
    assert free_host_memory(proc, root) == 2 * GB
    _group(root / "user/session", "max", GB, 0, version=2)
    assert free_host_memory(proc, root) == 4 * GB
    _group(root / "user", 20 * GB, GB, 0, version=2)
    assert free_host_memory(proc, root) == MACHINE


def test_a_group_over_its_limit_leaves_nothing(proc: Path, tmp_path: Path) -> None:
    (proc / "self/cgroup").write_text("0::/\n")
    _group(tmp_path / "cgroup", GB, 2 * GB, 0, version=2)
    assert free_host_memory(proc, tmp_path / "cgroup") == 0


@pytest.mark.parametrize("path", ["/docker/0a1b", "/../../other", "/"])
def test_version_1_counts_too_where_a_container_cannot_see_its_path(
    proc: Path, tmp_path: Path, path: str
) -> None:
    lines = [f"5:cpu,cpuacct:{path}", f"4:memory:{path}", "0::/"]
    (proc / "self/cgroup").write_text("\n".join(lines) + "\n")
    _group(tmp_path / "cgroup/memory", 2 * GB, GB, 100 * MB, version=1)
    assert free_host_memory(proc, tmp_path / "cgroup") == GB + 100 * MB


def test_without_a_report_of_free_memory_it_is_half_of_the_total(tmp_path: Path) -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_host_memory(tmp_path, tmp_path) == everything // 2


def test_this_machine_has_free_memory() -> None:
    assert MB < devices.free_memory(CPU) < 10**15


@pytest.mark.skipif(not IS_LINUX, reason="other systems only know the peak of a whole life")
def test_the_peak_grows_with_what_is_touched_and_is_reset() -> None:
    gc.collect()
    devices.release_memory(CPU)
    devices.reset_peak_memory(CPU)
    before = devices.used_memory(CPU)
    held = torch.ones(300 * MB // 4)
    assert devices.used_memory(CPU) - before > 250 * MB
    del held
    devices.release_memory(CPU)
    assert devices.used_memory(CPU) - before < 50 * MB
    assert 250 * MB < devices.peak_memory(CPU) - before < 400 * MB
    devices.reset_peak_memory(CPU)
    assert devices.peak_memory(CPU) - before < 50 * MB


def test_without_proc_the_peak_is_that_of_the_whole_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "_PROC", tmp_path)
    before = devices.used_memory(CPU)
    held = torch.ones((before + 100 * MB) // 4)  # more than was ever in use
    devices.reset_peak_memory(CPU)
    assert devices.peak_memory(CPU) - before > 50 * MB
    del held


def test_out_of_memory_is_distinguished_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert devices.is_out_of_memory(caught.value)
    assert devices.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert devices.is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not devices.is_out_of_memory(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_it_is_the_memory_of_the_device() -> None:
    device = torch.device("cuda")
    devices.release_memory(device)
    devices.reset_peak_memory(device)
    before, free = devices.used_memory(device), devices.free_memory(device)
    held = torch.ones(300 * MB // 4, device=device)
    assert devices.used_memory(device) - before >= 300 * MB
    assert free - devices.free_memory(device) >= 250 * MB
    del held
    assert (
        devices.free_memory(device) > free - 50 * MB
    )  # the allocator keeps it, for others to have
    assert devices.peak_memory(device) - before >= 300 * MB
    devices.release_memory(device)
    assert devices.used_memory(device) == before
