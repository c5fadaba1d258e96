"""How much an image depends on its neighbours in a batch, against the same image generated alone.

    python -m benchmarks.generation.neighbours [--images 2 4 8 16] [--json FILE]
    python -m benchmarks.generation.neighbours --models sdxl      # on a GPU

Each of n = 4 images (--seeds) is generated alone, and then in batches with two sets of neighbours
that have nothing in common: tokens, seeds, guidance, numbers of steps and progress differ.

same    "yes" if the image is the same bit for bit beside both sets, in first and in last position
max     the largest difference of any pixel from the image generated alone
mean    the mean difference over all pixels, in the image that differs most

The unit of max and mean is levels of 255. Models of the catalogue have random weights: their images
are noise, in which rounding may show more than in images of trained models.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.generation.images import MINIATURE_PROMPT, draw_tokens
from benchmarks.generation.load import PLACEHOLDER
from benchmarks.models.random_models import description, load_engine, open_model
from benchmarks.models.random_tokenizers import PROMPT
from dti_engine.backbones.interface import Backbone
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


class ImageGenerator:
    """Generates one image at a time, alone or in a batch with others."""

    def __init__(
        self, backbone: Backbone, prompt: str, side: int, steps: int, max_neighbours: int
    ) -> None:
        self._backbone, self._prompt, self._side, self._steps = backbone, prompt, side, steps
        self._tokens = draw_tokens(backbone, 2 * max_neighbours + 1)
        self._prompt_cache = PromptCache(backbone)

    def generate(self, seed: int, count: int = 0, group: int = 0, position: int = 0) -> Any:
        """Return (side, side, 3) levels of an image beside `count` neighbours of group 0 or 1."""
        (image,) = self._begin([self._request(seed, 0, 5.0)], self._steps)
        numbers = range(1 + group * count, 1 + (1 + group) * count)
        # The neighbours take more steps than the image and start before it, the groups at different
        # steps, so that every call of the model has all of them in it.
        requests = [self._request(100 + n, n, 2.0 + group + n / 8) for n in numbers]
        others = self._begin(requests, (3 + group) * self._steps) if count else []
        denoiser = Denoiser(self._backbone)
        for _ in range((1 + group) * self._steps // 2 if others else 0):
            denoiser.step(others)
        while not image.finished:
            denoiser.step([*others[:position], image, *others[position:]])
        (pixels,) = decode(self._backbone, [image])
        return np.asarray(to_image(pixels)).astype(int)

    def _request(self, seed: int, token: int, guidance: float) -> ImageRequest:
        tokens = {PLACEHOLDER: self._tokens[token]}
        return ImageRequest(self._prompt, seed, tokens, guidance=guidance, instruction=False)

    def _begin(self, requests: list[ImageRequest], steps: int) -> list[DenoisingState]:
        sampler = LinearScheduler.of(self._backbone.new_scheduler(), steps)
        return begin(
            self._backbone, self._prompt_cache, requests, sampler, (self._side, self._side)
        )


def measure(generator: ImageGenerator, seeds: int, images: list[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    alone = [generator.generate(seed) for seed in range(seeds)]
    for count in images:
        same, differences = True, list[Any]()
        for seed in range(seeds):
            first, *others = (
                generator.generate(seed, count - 1, group, position)
                for group in (0, 1)
                for position in (0, count - 1)
            )
            same = same and all(np.array_equal(first, each) for each in others)
            differences += [abs(each - alone[seed]) for each in (first, *others)]
        rows.append(
            {
                "images": count,
                "same": same,
                "max": max(int(each.max()) for each in differences),
                "mean": max(float(each.mean()) for each in differences),
            }
        )
    return rows


def show(name: str, results: dict[str, list[dict[str, Any]]]) -> Table:
    table = Table("dtype", "images", "same", "max", "mean", title=name)
    for dtype, rows in results.items():
        for row in rows:
            same = "yes" if row["same"] else "no"
            cells = str(row["images"]), same, str(row["max"]), f"{row['mean']:.4f}"
            table.add_row(dtype, *cells)
    return table


def main() -> None:
    parser = BenchmarkParser(__doc__, whole=True)
    parser.add_models(["miniature"])
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--side", type=int, metavar="PX", help="default: each model's own")
    parser.add_argument("--dtypes", nargs="+", choices=[*DTYPES], default=[*DTYPES])
    parser.add_argument(
        "--images", type=int, nargs="+", default=[2, 4, 8, 16], help="sizes of the batch"
    )
    parser.add_argument("--seeds", type=int, default=4, help="images that are compared")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    device, console = find_device("auto"), Console()
    report: dict[str, Any] = {"environment": environment(device)}
    for name in options.models:
        results = report.setdefault(name, {})
        for dtype in options.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = open_model(name, Path(folder), device=device, small=options.small)
                backbone = load_engine(checkpoint, device=device, dtype=DTYPES[dtype])
            prompt = (MINIATURE_PROMPT if name == "miniature" else PROMPT).format(PLACEHOLDER)
            side = options.side or description(checkpoint).image_size
            generator = ImageGenerator(backbone, prompt, side, options.steps, max(options.images))
            results[dtype] = measure(generator, options.seeds, options.images)
        console.print(show(name, results))
        # After each model, because time on a GPU may be short.
        write_json(options.json, report)


if __name__ == "__main__":
    main()
