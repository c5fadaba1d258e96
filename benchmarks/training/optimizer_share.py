"""The optimizer's share of a training step, and packed slots against a single slot.

    python -m benchmarks.training.optimizer_share [--model miniature] [--dtype auto] \
        [--slots 1 2 4 8]

share    time of the optimizer's update, in percent of the whole training step
packing  subject-steps per second with K slots, as a ratio to one slot in the same run

Times are medians of n = 10 steps (--repeats) of each size, which take turns. Absolute times are
shown on CUDA only, because only the ratios carry over to other machines.
"""

import statistics

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.recipes import recipe
from dti_engine.training.autotune import full_trainer, measure_s
from dti_engine.training.loop import Trainer


def update_of(trainer: Trainer) -> None:
    """Take only the optimizers' part of a training step."""
    for optimizer in trainer.optimizers.values():
        optimizer.step(torch.ones_like(optimizer.parameter))


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    backbone = load_backbone(options.model, device=device, dtype=dtype)

    config = recipe("miniature").changed(resolution=backbone.image_size)
    sizes = sorted({1, *options.slots})
    trainers = {k: full_trainer(backbone, config, num_slots=k) for k in sizes}
    steps: dict[int, list[float]] = {k: [] for k in trainers}
    updates: dict[int, list[float]] = {k: [] for k in trainers}
    for repeat in range(options.repeats + 2):  # the first two warm up
        for k, trainer in trainers.items():
            step = measure_s(device, trainer.step)
            update = measure_s(device, lambda trainer=trainer: update_of(trainer))
            if repeat >= 2:
                steps[k].append(step)
                updates[k].append(update)

    alone = statistics.median(steps[1])
    rows = [
        {
            "slots": k,
            "share": statistics.median(updates[k]) / statistics.median(steps[k]),
            "packing": k * alone / statistics.median(steps[k]),
            "seconds": statistics.median(steps[k]),
        }
        for k in trainers
    ]
    table = Table("slots", "optimizer's share of a step", "subject-steps per second, 1 slot = 1",
                  title=f"{backbone.name} on {device.type} in {dtype}")  # fmt: skip
    for row in rows:
        time_of = f"  ({row['seconds'] * 1000:.1f} ms)" if device.type == "cuda" else ""
        table.add_row(f"{row['slots']}", f"{row['share']:.2%}", f"{row['packing']:.2f}{time_of}")
    Console().print(table)
    report = {"environment": environment(device, dtype=dtype), "rows": rows}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
