"""Training a subject: the engine against diffusers' plain loop, on models of full size.

    python -m benchmarks.training.subjects
    python -m benchmarks.training.subjects --models miniature
    python -m benchmarks.training.subjects --models sdxl --sides 768              # on a GPU
    python -m benchmarks.training.subjects --models sdxl sd15 sana-1.6b --compile

plain     `plain_loop`: diffusers' example script without its accelerate, logs and checkpoints
one slot  the engine with one subject, of as many samples in each step
packed    the engine with as many subjects as `dti train --slots auto` takes here
compiled  the same as packed, its denoiser compiled (--compile)

The unit is samples per second, as a ratio to `plain` in the same run: medians of n = 5 blocks
(--repeats) of 20 steps (--steps), which take turns. A block includes the work that the engine does
every few steps, such as the fixed batch. On CUDA, the table also has:

s per subject  time of 1600 samples (--samples) and, in the engine, of encoding the images before
               the first step; without loading the model
share of peak  operations per second (`operations.py`: denoiser and text, forward and backward, with
               prompts as long as the engine's) over those of a large matrix product in the same
               dtype and run. Work that is not counted, such as encoding images in every step of the
               plain loop, lowers it
memory         weights, and the peak of a step
A step waits for  the operation that makes the host wait for the device, in the engine

For a fair comparison, all contenders learn from the same files of 5 images, which have the size of
the crops. Models of the catalogue have random weights, which cost as much as trained ones.
"""

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.models.random_models import description, open_model
from benchmarks.training.contenders import Contender, make_contenders, peak_bytes
from benchmarks.training.operations import SIDES, denoiser_work, text_work
from dti_engine import devices
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.recipes import default_recipe, recipe
from dti_engine.training.autotune import measure_s


@dataclass(frozen=True)
class Row:
    """The results of one contender; None where a value cannot be measured."""

    model: str
    side: int
    contender: str
    slots: int
    recompute: bool
    seconds_per_step: float
    seconds_per_subject: float
    faster: float | None  # ratio of the samples per second to the plain loop's
    share: float  # share of the peak
    bytes: int | None


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large square matrix product, the best of several."""
    size, calls = (8192, 50) if device.type == "cuda" else (2048, 1)
    first, second = torch.randn(2, size, size, device=device).to(dtype)

    def products() -> None:
        for _ in range(calls):
            first @ second

    return 2 * size**3 * calls / min(measure_s(device, products) for _ in range(5))


def compare(
    name: str, side: int, peak: float, options: Any, **kind: Any
) -> tuple[list[Row], dict[str, Any]]:
    """Return a row for each contender on a model, and facts about the run."""
    device = kind["device"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoint = open_model(name, folder / "model", device=device, small=options.small)
        described = description(checkpoint)
        side = side or described.image_size
        latent = side * described.configuration(described.denoiser.name)["sample_size"]
        usual = "miniature" if name == "miniature" else default_recipe(
            checkpoint.pipeline, latent // described.image_size
        )  # fmt: skip
        config = recipe(usual).changed(resolution=side)
        compared, facts = make_contenders(
            checkpoint, folder, config, slots=options.slots, compiled=options.compile, **kind
        )

        length = facts["positions of a caption"]
        work = denoiser_work(described, side, length).total + text_work(described, length).total

        def block(contender: Contender) -> float:
            """Return the seconds per step of a block."""
            steps = options.steps
            return measure_s(device, lambda: [contender.step() for _ in range(steps)]) / steps

        for each in compared:
            facts[f"first block of {each.name}, s"] = round(options.steps * block(each), 1)
        times: dict[str, list[float]] = {each.name: [] for each in compared}
        for _ in range(options.repeats):
            for each in compared:
                times[each.name].append(block(each))
        medians = {each: statistics.median(elapsed_s) for each, elapsed_s in times.items()}
        samples = {each.name: each.slots * config.batch_size for each in compared}
        rates = {each: samples[each] / medians[each] for each in medians}
        rows = [
            Row(
                name,
                side,
                each.name,
                each.slots,
                each.recompute,
                medians[each.name],
                each.setup_s + options.samples / rates[each.name],
                rates[each.name] / rates["plain"] if "plain" in rates else None,
                work * rates[each.name] / peak,
                peak_bytes(each, device),
            )
            for each in compared
        ]
        return rows, {**facts, "operations per sample": work}


def results_table(rows: list[Row], device: torch.device, title: str) -> Table:
    is_cuda = device.type == "cuda"
    columns = ["", "subjects", "samples per second, plain = 1"]
    columns += ["s per step", "s per subject", "share of peak", "memory"] * is_cuda
    table = Table(*columns, title=title)
    for row in rows:
        cells = [f"{row.contender}{' (recomputes)' * row.recompute}", str(row.slots)]
        cells.append("-" if row.faster is None else f"{row.faster:.2f}")
        if is_cuda:
            cells += [f"{row.seconds_per_step:.4f}", f"{row.seconds_per_subject:.1f}"]
            cells += [f"{row.share:.1%}", f"{(row.bytes or 0) / 1e9:.1f} GB"]
        table.add_row(*cells)
    return table


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_models(words="miniature on a CPU, else sdxl sd15 sana-1.6b")
    parser.add_argument(
        "--sides", nargs="+", type=int, metavar="PX",
        help="sides of images; default: each model's own, and for sdxl 768 as well",
    )  # fmt: skip
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--slots", type=int, help="of packed; default: as with `--slots auto`")
    parser.add_argument(
        "--compile", action="store_true", help="also a compiled denoiser; takes minutes"
    )
    parser.add_dtype()
    parser.add_argument("--samples", type=int, default=1600, help="of a subject")
    parser.add_argument("--steps", type=int, default=20, help="of a block; best a multiple of 20")
    parser.add_argument("--repeats", type=int, default=5, help="blocks of each")
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    models = options.models or (
        ["sdxl", "sd15", "sana-1.6b"] if device.type == "cuda" else ["miniature"]
    )
    peak = matrix_peak(device, dtype)
    report: dict[str, Any] = {
        "environment": environment(device, dtype=dtype),
        "small": options.small,
        "samples": options.samples,
        "peak": peak,
        "rows": [],
        "facts": {},
    }
    console = Console()
    if device.type == "cuda":
        console.print(f"a large matrix product: {peak / 1e12:.0f} TFLOP/s in {dtype}")
    for name in models:
        usual = (0,) if options.small else SIDES.get(name, (0,))
        for side in options.sides or usual:
            rows, facts = compare(name, side, peak, options, device=device, dtype=dtype)
            title = f"{'small ' * options.small}{name}, {rows[0].side} px, {device.type}, {dtype}"
            console.print(results_table(rows, device, title))
            for fact, value in facts.items():
                if value is not None and (device.type == "cuda" or fact == "slots"):
                    console.print(f"{fact}: {value}")
            report["rows"] += map(asdict, rows)
            report["facts"][f"{name}, {rows[0].side} px"] = facts
            # After each model, because time on a GPU may be short.
            write_json(options.json, report)
            devices.release_memory(device)


if __name__ == "__main__":
    main()
