"""Continuous batching of many tenants' images against static batches and other alternatives.

    python -m benchmarks.generation.continuous_batching [joining] [overload] [mixes] [service] \
        [--json FILE]
    python -m benchmarks.generation.continuous_batching --models sdxl --batch-size 16  # on a GPU

joining   requests at random moments (Poisson), at 50, 80 and 95 % of the scheduler's capacity:
          continuous batching, in which an image joins a running batch at its next step, against
          static batches, which stay the same from start to end. Images take 15 to 35 steps
          --simulated-device SECONDS ROWS: a device whose calls take SECONDS for up to ROWS rows (an
          image has two), and above that a time in proportion, as on a large GPU
overload  requests at three times the capacity, against requests at the capacity
mixes     batches of many tokens, with tokens in memory or from a store and partly blended, against
          batches of one token, against batches sorted by token, and against diffusers' pipeline
          that loads and unloads a token for each image
service   images of the miniature through the API and an engine, each in its own process, against
          the scheduler alone, and the CPU time of both processes, measured with images of one step;
          the CPU time of the client is not counted
          --through-ray: also through `dti serve`

The unit of joining and overload is seconds of latency (p50, p99) and images a second, of mixes and
service images a second; all are ratios within one run. Each is the median of n = 3 interleaved
rounds (--rounds) of 60 images (--images). All parts run unless some are named. The model is the
miniature on a CPU, else SD 1.5; models of the catalogue have random weights, which cost as much as
trained ones.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.generation.images import MINIATURE_PROMPT, draw_tokens
from benchmarks.generation.load import (
    PLACEHOLDER,
    SimulatedDevice,
    Workload,
    capacity,
    interleave,
    median,
    poisson_arrivals,
    run,
)
from benchmarks.generation.mixes import load_for_each_image, make_generators, measure_rates
from benchmarks.generation.service_cost import measure_service, show_service
from benchmarks.models.random_models import description, load_engine, load_pipeline, open_model
from benchmarks.models.random_tokenizers import PROMPT
from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment

PARTS = ("joining", "overload", "mixes", "service")


def measure_joining(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    max_rate = capacity(workload, options.images)
    loads = dict[str, Any]()
    for load in options.loads:
        # The same seed for both policies: they get the same requests at the same moments. The queue
        # holds all of them, so that neither policy refuses the requests that would take longest.
        def policy(joining: bool, load: float = load) -> dict[str, Any]:
            requests = poisson_arrivals(options.images, load * max_rate, workload.steps, seed=1)
            return run(workload, requests, queue_size=options.images, joining=joining)

        runs = interleave(
            {"continuous": lambda: policy(True), "static": lambda: policy(False)}, options.rounds
        )
        loads[str(load)] = {
            name: {figure: median(each, figure) for figure in ("p50", "p99", "rate")}
            for name, each in runs.items()
        }
    return {"capacity": max_rate, "loads": loads}


def show_joining(results: dict[str, Any]) -> Table:
    table = Table("load", "p50", "p99", "images a second", title="continuous / static batches")
    for load, policies in results["loads"].items():
        ratios = [
            policies["continuous"][figure] / policies["static"][figure]
            for figure in ("p50", "p99", "rate")
        ]
        table.add_row(f"{float(load):.0%}", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def measure_overload(workload: Workload, options: argparse.Namespace) -> dict[str, Any]:
    max_rate = capacity(workload, options.images)

    def offer(times: float) -> dict[str, Any]:
        count = int(times * options.images)
        requests = poisson_arrivals(count, times * max_rate, workload.steps, seed=2)
        return run(workload, requests, queue_size=2 * workload.max_batch_size)

    runs = interleave(
        {"at capacity": lambda: offer(1.0), "three times": lambda: offer(3.0)}, options.rounds
    )
    figures = ("generated", "refused", "failed", "rate", "p50", "p99")
    results: dict[str, Any] = {
        name: {figure: median(each, figure) for figure in figures} for name, each in runs.items()
    }
    return {"capacity": max_rate, **results}


def show_overload(results: dict[str, Any]) -> Table:
    table = Table(
        "requests", "images a second / at capacity", "refused", "failed", "p99 / at capacity"
    )
    for name in ("at capacity", "three times"):
        each = results[name]
        table.add_row(
            name,
            f"{each['rate'] / results['at capacity']['rate']:.2f}",
            f"{each['refused'] / (each['generated'] + each['refused']):.0%}",
            str(int(each["failed"])),
            f"{each['p99'] / results['at capacity']['p99']:.2f}",
        )
    return table


def measure_mixes(
    workload: Workload, options: argparse.Namespace, pipeline: Any, folder: Path
) -> dict[str, Any]:
    count = options.batches * workload.max_batch_size
    generators = make_generators(workload, options.steps, count, folder)
    if pipeline is not None:
        generators["diffusers, a token at a time"] = load_for_each_image(
            pipeline, workload, options.steps, count
        )
    return measure_rates(generators, count, options.rounds, workload.backbone.device)


def show_mixes(rates: dict[str, float]) -> Table:
    table = Table("images", "/ one token", title="images a second")
    for name, rate in rates.items():
        table.add_row(name, f"{rate / rates['one token']:.2f}")
    return table


def parse_arguments() -> argparse.Namespace:
    parser = BenchmarkParser(__doc__, whole=True)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parser.add_models(words="miniature on a CPU, else sd15")
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--side", type=int, metavar="PX", help="default: each model's own")
    parser.add_argument("--batch-size", type=int, default=8, help="images in a call of the model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25, help="of mixes, service")
    parser.add_argument("--images", type=int, default=60, help="of each run")
    parser.add_argument("--batches", type=int, default=8, help="of mixes")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 0.95])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--simulated-device", type=float, nargs=2, metavar=("SECONDS", "ROWS"))
    parser.add_argument("--through-ray", action="store_true")
    parser.add_dtype()
    return parser.parse_args()


def measure_model(
    name: str, parts: Sequence[str], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Measure and show the parts that need a model: joining, overload and mixes."""
    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    results = dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_model(name, Path(folder), device=device, small=options.small)
        backbone = load_engine(checkpoint, device=device, dtype=dtype)
        workload = make_workload(name, checkpoint, backbone, options)
        if "joining" in parts:
            results["joining"] = measure_joining(workload, options)
            console.print(show_joining(results["joining"]))
        if "overload" in parts:
            results["overload"] = measure_overload(workload, options)
            console.print(show_overload(results["overload"]))
        if "mixes" in parts:
            pipeline = (
                load_pipeline(checkpoint, device=device, dtype=dtype)
                if checkpoint.pipeline != "SanaPipeline"
                else None
            )
            results["mixes"] = measure_mixes(workload, options, pipeline, Path(folder) / "store")
            console.print(show_mixes(results["mixes"]))
    return results


def make_workload(
    name: str, checkpoint: ModelFolder, backbone: Any, options: argparse.Namespace
) -> Workload:
    side = options.side or description(checkpoint).image_size
    prompt = (MINIATURE_PROMPT if name == "miniature" else PROMPT).format(PLACEHOLDER)
    tokens = draw_tokens(backbone, options.tokens)
    if options.simulated_device:
        call_s, full_rows = options.simulated_device
        backbone = SimulatedDevice(backbone, call_s, int(full_rows))
    return Workload(backbone, tokens, prompt, (side, side), (15, 35), options.batch_size)


def main() -> None:
    options = parse_arguments()
    parts = PARTS if "all" in options.parts else options.parts
    device, console, load = find_device("auto"), Console(), os.getloadavg()[0]
    dtype = find_dtype(options.dtype, device)
    report: dict[str, Any] = {
        "environment": environment(device, dtype=dtype, load=f"{load:.1f}"),
        "batch size": options.batch_size,
        "simulated device": options.simulated_device,
    }
    names = options.models or (["sd15"] if device.type == "cuda" else ["miniature"])
    for name in names if set(parts) - {"service"} else ():
        report[name] = measure_model(name, parts, options, console)
        write_json(options.json, report)  # after each model, because time on a GPU may be short
    if "service" in parts:
        report["service"] = measure_service(options)
        console.print(show_service(report["service"]))
        write_json(options.json, report)
    console.print(f"{torch.get_num_threads()} threads, load {load:.1f} before it")


if __name__ == "__main__":
    main()
