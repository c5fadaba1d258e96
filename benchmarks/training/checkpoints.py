"""What checkpoints cost within a training.

    python -m benchmarks.training.checkpoints [--subjects 8] [--steps N] [--every 50] [--json FILE]

share    time spent in taking and writing checkpoints, over the time of the whole run: the figure
         to go by, as it is measured within one run
with / without  the same packed run with a checkpoint of each subject every so many steps, over one
         without, by turns; runs differ by more than checkpoints cost, so this only shows that
         nothing else became slow, such as a device that has to wait
bytes    of the largest checkpoint of a run: they grow with the reports in them

Shown are the median of the repeats, the least and the most. All subjects share one batch. Writing
waits for the disk (fsync): `--folder` says which. Absolute times are shown on CUDA only.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
    """Time spent in taking checkpoints from a trainer and in writing them, and what was written."""

    seconds: float = 0.0
    count: int = 0
    largest: int = 0  # bytes

    def __enter__(self) -> "Stopwatch":
        self._take, self._save = Trainer.checkpoint, CheckpointManager.save
        watch, take, save = self, self._take, self._save

        def timed_take(trainer: Trainer, slot: int) -> Checkpoint:
            began = time.perf_counter()
            taken = take(trainer, slot)
            watch.seconds += time.perf_counter() - began
            return taken

        def timed_save(checkpoints: CheckpointManager, checkpoint: Checkpoint) -> None:
            began = time.perf_counter()
            save(checkpoints, checkpoint)
            watch.seconds += time.perf_counter() - began
            watch.count += 1
            path = checkpoints.path(checkpoint.header.provenance.subject)
            watch.largest = max(watch.largest, path.stat().st_size)

        Trainer.checkpoint, CheckpointManager.save = timed_take, timed_save
        return self

    def __exit__(self, *_: object) -> None:
        Trainer.checkpoint, CheckpointManager.save = self._take, self._save


def seconds(
    backbone: Backbone,
    config: TrainConfig,
    num_subjects: int,
    checkpoints: CheckpointManager | None,
) -> float:
    """Of a whole run, all subjects in one batch; the model is there already."""
    subjects = [grey_subject(number, config.resolution) for number in range(num_subjects)]
    began = time.perf_counter()
    for result in train(
        backbone, subjects, config, num_slots=num_subjects, checkpoints=checkpoints
    ):
        assert result.artifact, result.error
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="miniature", help="a name, folder or hub id")
    parser.add_argument("--dtype", default="auto", help="as of `dti train`")
    parser.add_argument("--subjects", type=int, default=8, help="packed into one batch")
    parser.add_argument("--steps", type=int, help="of each subject (default: the recipe's)")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each kind")
    parser.add_argument("--folder", type=Path, help="on the disk to write to (default: temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    backbone = load_backbone(options.model, device=device, dtype=dtype)
    config = recipe("miniature").changed(resolution=backbone.image_size)
    if options.steps:
        config = config.changed(steps=options.steps)
    if config.steps <= options.every:
        parser.error(f"{config.steps} steps have no checkpoint every {options.every} of them")

    took: dict[str, list[float]] = {"with": [], "without": []}
    shares: list[float] = []
    watch = Stopwatch()
    seconds(backbone, config.changed(steps=2), options.subjects, None)  # warms up
    for repeat in range(options.repeats):
        for kind in sorted(took, reverse=repeat % 2 == 1):  # neither is always the first
            watch = Stopwatch() if kind == "with" else watch
            with tempfile.TemporaryDirectory(dir=options.folder) as folder, watch:
                checkpoints = (
                    CheckpointManager(Path(folder), every=options.every) if kind == "with" else None
                )
                took[kind].append(seconds(backbone, config, options.subjects, checkpoints))
            if checkpoints:
                shares.append(watch.seconds / took[kind][-1])
    ratios = [a / b for a, b in zip(took["with"], took["without"], strict=True)]

    title = f"{options.subjects} subjects of {config.steps} steps, kept every {options.every}"
    table = Table("", f"{backbone.name} on {device.type}", title=title)
    table.add_row("checkpoints' share of a run", _spread(shares, "{:.3%}"))
    table.add_row("with checkpoints / without", _spread(ratios, "{:.3f}"))
    table.add_row("bytes of a checkpoint", f"{watch.largest}")
    if device.type == "cuda":
        table.add_row("time of a checkpoint", f"{1000 * watch.seconds / watch.count:.2f} ms")
    Console().print(table)
    if options.json:
        facts = {"subjects": options.subjects, "steps": config.steps, "every": options.every}
        report = {
            "environment": environment(device, dtype=dtype),
            "model": backbone.name,
            **facts,
            "shares": shares,
            "with / without": ratios,
            "checkpoints per run": watch.count,
            "bytes of a checkpoint": watch.largest,
            "seconds": took,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _spread(values: list[float], form: str) -> str:
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{form.format(median)}  ({form.format(least)} to {form.format(most)})"


if __name__ == "__main__":
    main()
