"""Subjects per hour: packed training against one slot, and against a process for each subject.

    python -m benchmarks.training.throughput [--subjects 8] [--steps N] [--slots 8] [--json FILE]

packed   one process, the model loaded once, `--slots` subjects in every step
single   the same process with one slot
process  `dti train` started anew for every subject, one after the other

All train the same subjects of the miniature's world on the same images for the same steps, and
loading the model counts for all three. Official launchers start a process for each subject.

The unit is time, as a ratio to `packed`, for n = 1 run of each way; repeat the command to see the
spread. Subjects per hour are shown on CUDA only, because only ratios carry over to other machines.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, seconds, write_json
from dti_engine.backbones import load_backbone
from dti_engine.config import TrainConfig
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.images.decode import load_images
from dti_engine.miniature.world.subjects import HeldOutSubject, draw_subject, held_out_subjects
from dti_engine.recipes import recipe
from dti_engine.training.loop import Subject, train

NUM_IMAGES = 5


def in_one_process(
    held_out: list[HeldOutSubject], photos: Path, config: TrainConfig, num_slots: int
) -> None:
    device = find_device("auto")
    backbone = load_backbone("miniature", device=device, dtype=find_dtype("auto", device))
    subjects = (
        Subject(each.name, load_images(photos / each.name), each.placeholder, each.class_word, 0)
        for each in held_out
    )
    for result in train(backbone, subjects, config, num_slots=num_slots):
        assert result.artifact, result.error


def in_a_process_each(
    held_out: list[HeldOutSubject], photos: Path, config: TrainConfig, output: Path
) -> None:
    for each in held_out:
        command = [sys.executable, "-m", "dti_engine", "train", str(photos / each.name)]
        command += ["--initializer", each.class_word, "--steps", str(config.steps)]
        # Without validation images, which the other two ways do not generate either.
        command += ["--validation-images", "0", "--output", str(output)]
        subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of each subject ; default: the recipe's")
    options = parser.parse_args()
    config = recipe("miniature")
    if options.steps:
        config = config.changed(steps=options.steps)
    held_out = list(held_out_subjects("evaluation"))[: options.subjects]
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        for subject in held_out:
            draw_subject(subject, photos / subject.name, count=NUM_IMAGES)
        elapsed_s = {
            "packed": seconds(lambda: in_one_process(held_out, photos, config, options.slots)),
            "single": seconds(lambda: in_one_process(held_out, photos, config, 1)),
            "process": seconds(lambda: in_a_process_each(held_out, photos, config, Path(folder))),
        }
    device = find_device("auto")
    title = f"{len(held_out)} subjects of {config.steps} steps, on {device.type}"
    table = Table("", "packed is faster by", title=title)
    for name, each in elapsed_s.items():
        hours = f"  ({3600 * len(held_out) / each:.0f} subjects per hour)"
        table.add_row(name, f"{each / elapsed_s['packed']:.2f}{hours * (device.type == 'cuda')}")
    Console().print(table)
    facts = {"subjects": len(held_out), "steps": config.steps, "slots": options.slots}
    report = {"environment": environment(device), **facts, "seconds": elapsed_s}
    write_json(options.json, report)


if __name__ == "__main__":
    main()
