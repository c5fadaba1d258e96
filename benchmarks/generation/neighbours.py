"""How far an image depends on those beside it, in levels of 255, by their number and the dtype.

    python -m benchmarks.generation.neighbours [--images 2 4 8 16] [--json FILE]
    python -m benchmarks.generation.neighbours --models sdxl      # on a GPU

Some images are generated alone, and each beside the images of two crowds that have nothing in
common: other tokens, seeds, guidance, numbers of steps, and how far they are.

same    whether it is the same, bit for bit, in both crowds, at its first and last place among them
max     levels by which it differs from the one that was generated alone: the most of any pixel
mean    the same, over all pixels of the image that differs most

Models of the catalogue have random weights; what they generate says nothing, and rounding may show
more in it than in images.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.generation.images import MINIATURE_PROMPT, draw_tokens
from benchmarks.generation.load import PLACEHOLDER
from benchmarks.models.random_models import description, load_engine, open_model
from benchmarks.models.random_tokenizers import PROMPT
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.registry import catalogue
from dti_engine.devices import find_device
from dti_engine.files import environment
from dti_engine.generation.denoiser import (
    Denoiser,
    DenoisingState,
    ImageRequest,
    begin,
    decode,
    to_image,
)
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Easel:
    """Generates one image at a time, alone or beside others."""

    def __init__(self, backbone: Backbone, prompt: str, side: int, steps: int, most: int) -> None:
        """most: images beside one."""
        self._backbone, self._prompt, self._side, self._steps = backbone, prompt, side, steps
        self._tokens = draw_tokens(backbone, 2 * most + 1)
        self._prompt_cache = PromptCache(backbone)

    def generate(self, seed: int, count: int = 0, crowd: int = 0, place: int = 0) -> Any:
        """(side, side, 3) levels of an image, beside `count` others of a crowd: 0 or 1."""
        (mine,) = self._begin([self._order(seed, 0, 5.0)], self._steps)
        numbers = range(1 + crowd * count, 1 + (1 + crowd) * count)
        # All have a while to go when the image is done, the crowds from different steps on.
        orders = [self._order(100 + n, n, 2.0 + crowd + n / 8) for n in numbers]
        others = self._begin(orders, (3 + crowd) * self._steps) if count else []
        denoiser = Denoiser(self._backbone)
        for _ in range((1 + crowd) * self._steps // 2 if others else 0):
            denoiser.step(others)
        while not mine.finished:
            denoiser.step([*others[:place], mine, *others[place:]])
        (pixels,) = decode(self._backbone, [mine])
        return np.asarray(to_image(pixels)).astype(int)

    def _order(self, seed: int, token: int, guidance: float) -> ImageRequest:
        tokens = {PLACEHOLDER: self._tokens[token]}
        return ImageRequest(self._prompt, seed, tokens, guidance=guidance, instruction=False)

    def _begin(self, orders: list[ImageRequest], steps: int) -> list[DenoisingState]:
        sampler = LinearScheduler.of(self._backbone.new_scheduler(), steps)
        return begin(self._backbone, self._prompt_cache, orders, sampler, (self._side, self._side))


def measure(easel: Easel, seeds: int, images: list[int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    alone = [easel.generate(seed) for seed in range(seeds)]
    for count in images:
        same, differences = True, list[Any]()
        for seed in range(seeds):
            first, *others = (
                easel.generate(seed, count - 1, crowd, place)
                for crowd in (0, 1)
                for place in (0, count - 1)
            )
            same = same and all(np.array_equal(first, each) for each in others)
            differences += [abs(each - alone[seed]) for each in (first, *others)]
        found.append(
            {
                "images": count,
                "same": same,
                "max": max(int(each.max()) for each in differences),
                "mean": max(float(each.mean()) for each in differences),
            }
        )
    return found


def show(name: str, found: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table("dtype", "images", "same", "max", "mean", title=name)
    for dtype, rows in found.items():
        for row in rows:
            same = "yes" if row["same"] else "no"
            cells = str(row["images"]), same, str(row["max"]), f"{row['mean']:.4f}"
            table.add_row(dtype, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", choices=["miniature", *catalogue()], metavar="NAME",
        default=["miniature"], help="miniature, or of `dti backbones`",
    )  # fmt: skip
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--side", type=int, metavar="PX", help="default: each model's own")
    parser.add_argument("--dtypes", nargs="+", choices=[*DTYPES], default=[*DTYPES])
    parser.add_argument("--images", type=int, nargs="+", default=[2, 4, 8, 16], help="in a call")
    parser.add_argument("--seeds", type=int, default=4, help="images that are looked at")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    device, console = find_device("auto"), Console()
    report: dict[str, Any] = {"environment": environment(device)}
    for name in options.models:
        found = report.setdefault(name, {})
        for dtype in options.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = open_model(name, Path(folder), device=device, small=options.small)
                backbone = load_engine(checkpoint, device=device, dtype=DTYPES[dtype])
            prompt = (MINIATURE_PROMPT if name == "miniature" else PROMPT).format(PLACEHOLDER)
            side = options.side or description(checkpoint).image_size
            easel = Easel(backbone, prompt, side, options.steps, max(options.images))
            found[dtype] = measure(easel, options.seeds, options.images)
        console.print(show(name, found))
        if options.json:  # after each, as a GPU may be lent for a short time
            options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
