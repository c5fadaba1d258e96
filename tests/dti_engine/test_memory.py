"""What is free and what was in use, from the files of Linux and from real memory."""

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

from dti_engine import devices
from dti_engine.devices import free_host_memory

CPU = torch.device("cpu")
MB, GB = 10**6, 10**9
IS_LINUX = sys.platform == "linux"


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


def test_without_control_groups_it_is_what_the_machine_has_left(proc: Path, tmp_path: Path) -> None:
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


def test_where_nobody_says_what_is_free_it_is_half_of_all(tmp_path: Path) -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_host_memory(tmp_path, tmp_path) == everything // 2


def test_this_machine_has_some_left() -> None:
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


def test_memory_that_has_run_out_is_told_from_other_errors() -> None:
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
