"""What generating many tenants' images at once is worth, as ratios in one run.

    python -m benchmarks.generation.continuous_batching [joining] [overload] [mixes] [service] \
        [--json FILE]
    python -m benchmarks.generation.continuous_batching --models sdxl --cap 16       # on a GPU

joining   images at random moments (Poisson), at 50, 80 and 95 % of what the scheduler can do: those
          that join a running batch at its next step, against batches that are whole from start to
          end. Images take 15 to 35 steps
          --pretend SECONDS ROWS: on a device that is not there, whose calls take so many seconds
          for up to so many rows (an image has two), then in proportion, as large GPUs do
overload  three times as many as it can do: how many are generated, against as many as it can do
mixes     batches of many tokens, known or out of a store and some of them blended, against one
          token, against batches of one token's images only, and against diffusers' pipeline that
          loads and unloads a token for each image
service   images of the miniature, whatever the models: asked of the API, which asks an engine,
          each a process of its own, against the scheduler alone. What both use of the CPU, too, as
          is seen with images of one step; whoever asks for them uses some of it besides
          --through-ray: of `dti serve` as well

All in a row unless some are named. By default the miniature on a CPU, else SD 1.5; models of the
catalogue have random weights, as these change nothing of the cost.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.generation.images import MINIATURE_PROMPT, draw_tokens
from benchmarks.generation.load import (
    PLACEHOLDER,
    Pretended,
    Scene,
    arrivals,
    capacity,
    in_turns,
    median,
    run,
)
from benchmarks.generation.mixes import generators, naive, rates
from benchmarks.generation.service_cost import measure_service, show_service
from benchmarks.models.random_models import description, load_engine, load_pipeline, open_model
from benchmarks.models.random_tokenizers import PROMPT
from dti_engine.backbones.registry import catalogue
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment

PARTS = ("joining", "overload", "mixes", "service")


def measure_joining(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    most = capacity(scene, options.images)
    found = dict[str, Any]()
    for load in options.loads:

        def policy(joining: bool, load: float = load) -> dict[str, Any]:
            asked = arrivals(options.images, load * most, scene.steps, seed=1)
            return run(scene, asked, queue=options.images, joining=joining)

        runs = in_turns(
            {"joining": lambda: policy(True), "whole": lambda: policy(False)}, options.rounds
        )
        found[str(load)] = {
            name: {figure: median(each, figure) for figure in ("p50", "p99", "rate")}
            for name, each in runs.items()
        }
    return {"capacity": most, "loads": found}


def show_joining(found: dict[str, Any]) -> Table:
    table = Table("load", "p50", "p99", "images a second", title="joining / whole batches")
    for load, policies in found["loads"].items():
        ratios = [
            policies["joining"][figure] / policies["whole"][figure]
            for figure in ("p50", "p99", "rate")
        ]
        table.add_row(f"{float(load):.0%}", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def measure_overload(scene: Scene, options: argparse.Namespace) -> dict[str, Any]:
    def offered(times: float, most: float) -> dict[str, Any]:
        asked = arrivals(int(times * options.images), times * most, scene.steps, seed=2)
        return run(scene, asked, queue=2 * scene.cap)

    most = capacity(scene, options.images)
    runs = in_turns(
        {"all that it can": lambda: offered(1.0, most), "three times": lambda: offered(3.0, most)},
        options.rounds,
    )
    figures = ("generated", "refused", "broken", "rate", "p50", "p99")
    found: dict[str, Any] = {
        name: {figure: median(each, figure) for figure in figures} for name, each in runs.items()
    }
    return {"capacity": most, **found}


def show_overload(found: dict[str, Any]) -> Table:
    table = Table("offered", "images a second / at capacity", "refused", "broken", "p99 / same")
    for name in ("all that it can", "three times"):
        each = found[name]
        table.add_row(
            name,
            f"{each['rate'] / found['all that it can']['rate']:.2f}",
            f"{each['refused'] / (each['generated'] + each['refused']):.0%}",
            str(int(each["broken"])),
            f"{each['p99'] / found['all that it can']['p99']:.2f}",
        )
    return table


def measure_mixes(
    scene: Scene, options: argparse.Namespace, pipeline: Any, folder: Path
) -> dict[str, Any]:
    count = options.batches * scene.cap
    makers = generators(scene, options.steps, count, folder)
    if pipeline is not None:
        makers["diffusers, a token at a time"] = naive(pipeline, scene, options.steps, count)
    return rates(makers, count, options.rounds, scene.backbone.device)


def show_mixes(found: dict[str, float]) -> Table:
    table = Table("images", "/ one token", title="images a second")
    for name, rate in found.items():
        table.add_row(name, f"{rate / found['one token']:.2f}")
    return table


def save(report: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parser.add_argument(
        "--models", nargs="+", choices=["miniature", *catalogue()], metavar="NAME",
        help="miniature, or of `dti backbones`; default: miniature on a CPU, else sd15",
    )  # fmt: skip
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--side", type=int, metavar="PX", help="default: each model's own")
    parser.add_argument("--cap", type=int, default=8, help="images in a call of the model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25, help="of mixes, service")
    parser.add_argument("--images", type=int, default=60, help="of each run")
    parser.add_argument("--batches", type=int, default=8, help="of mixes")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 0.95])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pretend", type=float, nargs=2, metavar=("SECONDS", "ROWS"))
    parser.add_argument("--through-ray", action="store_true")
    parser.add_argument("--dtype", default="auto", help="as of `dti train`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    parts = PARTS if "all" in options.parts else options.parts
    device, console, load = find_device("auto"), Console(), os.getloadavg()[0]
    dtype = find_dtype(options.dtype, device)
    report: dict[str, Any] = {
        "environment": environment(device, dtype=dtype, load=f"{load:.1f}"),
        "cap": options.cap,
        "pretended": options.pretend,
    }
    names = options.models or (["sd15"] if device.type == "cuda" else ["miniature"])
    for name in names if set(parts) - {"service"} else ():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = open_model(name, Path(folder), device=device, small=options.small)
            backbone: Any = load_engine(checkpoint, device=device, dtype=dtype)
            side = options.side or description(checkpoint).image_size
            prompt = (MINIATURE_PROMPT if name == "miniature" else PROMPT).format(PLACEHOLDER)
            tokens = draw_tokens(backbone, options.tokens)
            if options.pretend:
                seconds, rows = options.pretend
                backbone = Pretended(backbone, seconds, int(rows))
            scene = Scene(backbone, tokens, prompt, (side, side), (15, 35), options.cap)
            found = report.setdefault(name, {})
            if "joining" in parts:
                found["joining"] = measure_joining(scene, options)
                console.print(show_joining(found["joining"]))
            if "overload" in parts:
                found["overload"] = measure_overload(scene, options)
                console.print(show_overload(found["overload"]))
            if "mixes" in parts:
                pipeline = (
                    load_pipeline(checkpoint, device=device, dtype=dtype)
                    if checkpoint.pipeline != "SanaPipeline"
                    else None
                )
                found["mixes"] = measure_mixes(scene, options, pipeline, Path(folder) / "store")
                console.print(show_mixes(found["mixes"]))
        save(report, options.json)  # after each, as a GPU may be lent for a short time
    if "service" in parts:
        report["service"] = measure_service(options)
        console.print(show_service(report["service"]))
        save(report, options.json)
    console.print(f"{torch.get_num_threads()} threads, load {load:.1f} before it")


if __name__ == "__main__":
    main()
