"""Memory of subjects packed into one process, against a process for each.

    python -m benchmarks.training.memory [--model miniature] [--slots 1 2 4 8] [--json FILE]

packed   one process with K slots, the model loaded once: its peak from start to last step
process  K processes of one slot each, as official launchers start them

The unit is megabytes; each size is measured once (n = 1), in a process of its own, so that no size
inherits the memory of another. The slope over the sizes is the memory of one more subject.

On a CPU, the peak is of resident memory; libraries that processes share are counted once for all
processes, to the advantage of the alternative. On CUDA, it is the memory that the device has less
free, with the context and torch's cache, so nothing else may run on it.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from dti_engine import devices
from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.recipes import recipe
from dti_engine.training.autotune import full_trainer

STEPS = 3


@dataclass(frozen=True)
class Peak:
    """The peak memory of one process, in bytes."""

    total: int
    shared: int  # the part that other processes of the same program share

    def times(self, count: int) -> int:
        """Return the bytes of `count` such processes together."""
        return self.shared + count * (self.total - self.shared)


def measure(weights: str, dtype_name: str, batch_size: int, num_slots: int) -> Peak:
    """Return the peak of a new process that loads a model and trains with all slots taken."""
    is_cuda = torch.cuda.is_available()
    before = free_on_cuda() if is_cuda else 0
    # Spawned, because a forked process would begin with the memory of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        peak, free = pool.submit(take_steps, weights, dtype_name, batch_size, num_slots).result()
    return Peak(before - free, 0) if is_cuda else peak


def take_steps(weights: str, dtype_name: str, batch_size: int, num_slots: int) -> tuple[Peak, int]:
    """Take steps in this process; return its peak, and the free bytes of CUDA at the end."""
    device = find_device("auto")
    backbone = load_backbone(weights, device=device, dtype=find_dtype(dtype_name, device))
    config = recipe("miniature").changed(resolution=backbone.image_size, batch_size=batch_size)
    trainer = full_trainer(backbone, config, num_slots=num_slots)
    for _ in range(STEPS):
        trainer.step()
    # The CUDA allocator still holds the memory of the largest step.
    free = free_on_cuda() if device.type == "cuda" else 0
    return Peak(devices.peak_memory(torch.device("cpu")), shared()), free


def free_on_cuda() -> int:
    torch.cuda.synchronize()
    return torch.cuda.mem_get_info()[0]


def shared() -> int:
    """Return the bytes of mapped files, such as libraries, in this process; 0 outside Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssFile:"))


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--batch-size", type=int, default=4, help="samples of a subject in a step")
    parser.add_argument(
        "--slots", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of slots to measure"
    )
    options = parser.parse_args()

    sizes = sorted({1, 2, *options.slots})
    model = options.model, options.dtype, options.batch_size
    peaks = {size: measure(*model, size) for size in sizes}
    one_more = float(np.polyfit(sizes, [each.total for each in peaks.values()], 1)[0])
    process = peaks[1].total - peaks[1].shared
    rows = [
        {
            "slots": size,
            "packed_bytes": peak.total,
            "process_each_bytes": peaks[1].times(size),
            "process_each / packed": peaks[1].times(size) / peak.total,
        }
        for size, peak in peaks.items()
    ]

    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    title = f"{options.model} on {device.type} in {dtype}"
    table = Table("subjects", "packed", "a process each", "ratio", title=title)
    for row in rows:
        sides = (f"{row[name] / 1e6:.0f} MB" for name in ("packed_bytes", "process_each_bytes"))
        table.add_row(f"{row['slots']}", *sides, f"{row['process_each / packed']:.2f}")
    ratio = f"{process / one_more:.2f}" if one_more > 0 else "-"
    table.add_row("one more", f"{one_more / 1e6:.0f} MB", f"{process / 1e6:.0f} MB", ratio)
    Console().print(table)
    report = {
        "environment": environment(device, dtype=dtype),
        "model": options.model,
        "batch_size": options.batch_size,
        "one_more_packed_bytes": one_more,
        "one_more_process_bytes": process,
        "peaks": {size: asdict(peak) for size, peak in peaks.items()},
        "rows": rows,
    }
    write_json(options.json, report)


if __name__ == "__main__":
    main()
