"""The cost of checkpoints in a training run, against the same run without checkpoints.

    python -m benchmarks.training.checkpoints [--subjects 8] [--steps N] [--every 50] [--json FILE]

share           time of taking and writing checkpoints as a share of the whole run, in percent.
                This figure is the reliable one, because it is measured within one run
with / without  time of a run with a checkpoint of each subject every 50 steps (--every), as a ratio
                to the same run without. Runs differ by more than checkpoints cost, so the ratio
                only shows that checkpoints slow nothing else, such as a device that has to wait
bytes           size of the largest checkpoint of a run; checkpoints grow with their metrics

Shown are the median, the minimum and the maximum of n = 2 runs of each kind (--repeats), which take
turns. All subjects share one batch. Writing waits for the disk (fsync) that `--folder` is on.
Absolute times are shown on CUDA only.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.recipes import recipe
from dti_engine.training.autotune import grey_subject
from dti_engine.training.checkpoint import Checkpoint
from dti_engine.training.checkpoint_manager import CheckpointManager
from dti_engine.training.loop import train
from dti_engine.training.trainer import Trainer


@dataclass
class Stopwatch:
    """Measures the time of taking and writing checkpoints, their number and the largest size."""

    elapsed_s: float = 0.0
    count: int = 0
    max_bytes: int = 0

    def __enter__(self) -> "Stopwatch":
        self._take, self._save = Trainer.checkpoint, CheckpointManager.save
        watch, take, save = self, self._take, self._save

        def timed_take(trainer: Trainer, slot: int) -> Checkpoint:
            began = time.perf_counter()
            checkpoint = take(trainer, slot)
            watch.elapsed_s += time.perf_counter() - began
            return checkpoint

        def timed_save(checkpoints: CheckpointManager, checkpoint: Checkpoint) -> None:
            began = time.perf_counter()
            save(checkpoints, checkpoint)
            watch.elapsed_s += time.perf_counter() - began
            watch.count += 1
            path = checkpoints.path(checkpoint.header.provenance.subject)
            watch.max_bytes = max(watch.max_bytes, path.stat().st_size)

        Trainer.checkpoint, CheckpointManager.save = timed_take, timed_save
        return self

    def __exit__(self, *_: object) -> None:
        Trainer.checkpoint, CheckpointManager.save = self._take, self._save


def run_seconds(
    backbone: Backbone,
    config: TrainConfig,
    num_subjects: int,
    checkpoints: CheckpointManager | None,
) -> float:
    """Return the seconds of a run with all subjects in one batch, without loading the model."""
    subjects = [grey_subject(number, config.resolution) for number in range(num_subjects)]
    began = time.perf_counter()
    for result in train(
        backbone, subjects, config, num_slots=num_subjects, checkpoints=checkpoints
    ):
        assert result.artifact, result.error
    return time.perf_counter() - began


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--subjects", type=int, default=8, help="packed into one batch")
    parser.add_argument("--steps", type=int, help="of each subject; default: the recipe's")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each kind")
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary")
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    backbone = load_backbone(options.model, device=device, dtype=dtype)
    config = recipe("miniature").changed(resolution=backbone.image_size)
    if options.steps:
        config = config.changed(steps=options.steps)
    if config.steps <= options.every:
        parser.error(f"{config.steps} steps have no checkpoint every {options.every} of them")

    elapsed_s: dict[str, list[float]] = {"with": [], "without": []}
    shares: list[float] = []
    watch = Stopwatch()
    run_seconds(backbone, config.changed(steps=2), options.subjects, None)  # warms up
    for repeat in range(options.repeats):
        for kind in sorted(elapsed_s, reverse=repeat % 2 == 1):  # neither kind always runs first
            watch = Stopwatch() if kind == "with" else watch
            with tempfile.TemporaryDirectory(dir=options.folder) as folder, watch:
                checkpoints = (
                    CheckpointManager(Path(folder), every=options.every) if kind == "with" else None
                )
                elapsed_s[kind].append(run_seconds(backbone, config, options.subjects, checkpoints))
            if checkpoints:
                shares.append(watch.elapsed_s / elapsed_s[kind][-1])
    ratios = [a / b for a, b in zip(elapsed_s["with"], elapsed_s["without"], strict=True)]

    title = f"{options.subjects} subjects of {config.steps} steps, kept every {options.every}"
    table = Table("", f"{backbone.name} on {device.type}", title=title)
    table.add_row("checkpoints' share of a run", _spread(shares, "{:.3%}"))
    table.add_row("with checkpoints / without", _spread(ratios, "{:.3f}"))
    table.add_row("bytes of a checkpoint", f"{watch.max_bytes}")
    if device.type == "cuda":
        table.add_row("time of a checkpoint", f"{1000 * watch.elapsed_s / watch.count:.2f} ms")
    Console().print(table)
    facts = {"subjects": options.subjects, "steps": config.steps, "every": options.every}
    report = {
        "environment": environment(device, dtype=dtype),
        "model": backbone.name,
        **facts,
        "shares": shares,
        "with / without": ratios,
        "checkpoints per run": watch.count,
        "bytes of a checkpoint": watch.max_bytes,
        "seconds": elapsed_s,
    }
    write_json(options.json, report)


def _spread(values: list[float], form: str) -> str:
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(median)}  ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    main()
