"""Images per second, by batch and by how many tokens are in it, against diffusers' pipeline.

    python -m benchmarks.generation.images
    python -m benchmarks.generation.images --models sdxl --batches 1 4 16 # on a GPU

plain      diffusers' pipeline: one token by `load_textual_inversion`, one prompt, and
           `num_images_per_prompt` as large as the batch
1 token    `generate`: the same prompt and token for each image of the batch
N tokens   `generate`: every image has a token of its own, of N (--tokens); a batch of more has
           each several times, a smaller one has others in every turn

All generate at one size, with the same scheduler, steps, guidance, dtype and kind of image.
Nothing is remembered from batch to batch: prompts are read in each. Models of the catalogue have
random weights, as these change nothing of the cost. Diffusers has no such tokens for SANA, which
is therefore compared with nothing. The pipeline decodes a batch at once, the engine a few images
at a time; where only the first runs out of memory, it is shown so.

Times are medians of turns. What carries over to other machines is the ratios; images per second
are shown on CUDA only.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.models.random_models import description, load_engine, load_pipeline, open_model
from benchmarks.models.random_tokenizers import PROMPT
from dti_engine import devices
from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.registry import catalogue
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.autotune import measure_s

GUIDANCE = 5.0
PLACEHOLDER = "<subject>"
MINIATURE_PROMPT = "a photo of a {}"  # of the few words that it knows


def draw_tokens(backbone: Backbone, count: int) -> list[LearnedToken]:
    """Of one vector in each encoder, in random directions, as long as words are."""
    random = torch.Generator().manual_seed(0)

    def rows(name: str) -> torch.Tensor:
        encoder = backbone.text_encoders[name]
        drawn = torch.randn(1, encoder.dim, generator=random)
        return drawn * vocabulary_magnitude(encoder) / drawn.norm()

    return [
        LearnedToken(PLACEHOLDER, {name: rows(name) for name in backbone.text_encoders})
        for _ in range(count)
    ]


def engine(
    backbone: Backbone, prompt: str, tokens: list[LearnedToken], **sizes: int
) -> Callable[[int], int]:
    """Generates one batch of so many images; each batch goes on where the last one left off."""
    turn = 0

    def generate_images(count: int) -> int:
        nonlocal turn
        requests = [
            ImageRequest(
                prompt.format(PLACEHOLDER),
                seed=number,
                tokens={PLACEHOLDER: tokens[(turn + number) % len(tokens)]},
                guidance=GUIDANCE,
                instruction=False,
            )
            for number in range(count)
        ]
        turn += count
        return len(generate(backbone, requests, batch_size=count, **sizes))

    return generate_images


def plain(
    checkpoint: ModelFolder, backbone: Backbone, prompt: str, token: LearnedToken, **sizes: int
) -> Callable[[int], int]:
    device = backbone.device
    pipeline: Any = load_pipeline(checkpoint, device=device, dtype=backbone.dtype)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = backbone.new_scheduler()
    for name, rows in token.embeddings.items():
        pipeline.load_textual_inversion(
            {PLACEHOLDER: rows[0]},
            text_encoder=getattr(pipeline, name),
            tokenizer=getattr(pipeline, name.replace("text_encoder", "tokenizer")),
        )
    options = {
        "num_inference_steps": sizes["steps"],
        "height": sizes["height"],
        "width": sizes["width"],
        "guidance_scale": GUIDANCE,
    }

    def generate_images(count: int) -> int:
        random = [torch.Generator().manual_seed(number) for number in range(count)]
        images = pipeline(
            prompt.format(PLACEHOLDER), num_images_per_prompt=count, generator=random, **options
        ).images
        return len(images)

    return generate_images


def timed(generate_images: Callable[[int], int], count: int, device: torch.device) -> float | None:
    """Seconds of one batch; None if memory runs out."""
    try:
        return measure_s(device, lambda: generate_images(count))
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
    devices.release_memory(device)
    return None


def compare(name: str, options: Any, *, device: torch.device, dtype: torch.dtype) -> list[Any]:
    """Batch by batch: images per second of each painter, by name."""
    kind = {"device": device, "dtype": dtype}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_model(name, Path(folder), device=device, small=options.small)
        backbone = load_engine(checkpoint, **kind)
        side = options.side or description(checkpoint).image_size
        sizes = {"steps": options.steps, "height": side, "width": side}
        prompt = MINIATURE_PROMPT if name == "miniature" else PROMPT
        tokens = draw_tokens(backbone, options.tokens)
        generators: dict[str, Callable[[int], int]] = {}
        if checkpoint.pipeline != "SanaPipeline":
            generators["plain"] = plain(checkpoint, backbone, prompt, tokens[0], **sizes)
        generators["1 token"] = engine(backbone, prompt, tokens[:1], **sizes)
        generators[f"{len(tokens)} tokens"] = engine(backbone, prompt, tokens, **sizes)
        rows: list[Any] = []
        for count in options.batches:
            # The first batch of a size also chooses kernels.
            able = [
                each
                for each, generate_images in generators.items()
                if timed(generate_images, count, device)
            ]
            times: dict[str, list[float]] = {each: [] for each in able}
            for _ in range(options.repeats):
                for each in able:
                    times[each].append(timed(generators[each], count, device) or float("inf"))
            rates = {each: count / statistics.median(found) for each, found in times.items()}
            row = {"model": name, "side": side, "batch": count}
            row["images per second"] = {each: rates.get(each) for each in generators}
            rows.append(row)
        return rows


def shown(rows: list[Any], device: torch.device, title: str) -> Table:
    generators = list(rows[0]["images per second"])
    others = [each for each in generators if each != "plain"]
    columns = ["batch", *(f"{each} / plain" for each in others), f"{others[1]} / {others[0]}"]
    table = Table(*columns, *(f"{each}, per s" for each in generators * (device.type == "cuda")))
    table.title = title
    for row in rows:
        rates = row["images per second"]
        pairs = [*((each, "plain") for each in others), (others[1], others[0])]
        cells = [_ratio(rates.get(first), rates.get(second)) for first, second in pairs]
        if device.type == "cuda":
            each_rate = [rates[each] for each in generators]
            cells += [f"{rate:.3g}" if rate else "out of memory" for rate in each_rate]
        table.add_row(str(row["batch"]), *cells)
    return table


def _ratio(first: float | None, second: float | None) -> str:
    return f"{first / second:.2f}" if first and second else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", choices=["miniature", *catalogue()], metavar="NAME",
        help="miniature, or of `dti backbones`; default: miniature on a CPU, else sdxl sd15",
    )  # fmt: skip
    parser.add_argument("--side", type=int, metavar="PX", help="default: each model's own")
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=64, help="different ones, at least 2")
    parser.add_argument("--steps", type=int, default=25, help="of denoising")
    parser.add_argument("--dtype", default="auto", help="as of `dti train`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    device = find_device("auto")
    dtype = find_dtype(options.dtype, device)
    models = options.models or (["sdxl", "sd15"] if device.type == "cuda" else ["miniature"])
    report: dict[str, Any] = {
        "environment": environment(device, dtype=dtype),
        "small": options.small,
        "steps": options.steps,
        "rows": [],
    }
    for name in models:
        rows = compare(name, options, device=device, dtype=dtype)
        title = f"{'small ' * options.small}{name}, {rows[0]['side']} px, {device.type}, {dtype}"
        Console().print(shown(rows, device, title))
        report["rows"] += rows
        if options.json:  # after each, as a GPU may be lent for a short time
            options.json.write_text(json.dumps(report, indent=2) + "\n")
        devices.release_memory(device)


if __name__ == "__main__":
    main()
