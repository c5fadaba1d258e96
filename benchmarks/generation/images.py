"""Images per second of the engine against diffusers' pipeline, by batch size and by tokens in it.

    python -m benchmarks.generation.images
    python -m benchmarks.generation.images --models sdxl --batches 1 4 16 # on a GPU

plain      diffusers' pipeline: one token by `load_textual_inversion`, one prompt, and
           `num_images_per_prompt` as large as the batch
1 token    `generate`: the same prompt and token for each image of the batch
N tokens   `generate`: every image has another of N tokens (--tokens); a batch larger than N repeats
           them, a smaller one goes on with the next tokens in each repeat

The unit is images per second, as a ratio to `plain` in the same run; each is the median of n = 3
interleaved repeats (--repeats). Images per second themselves are shown on CUDA only, because they
say nothing about other machines.

For a fair comparison, all use one image size, scheduler, number of steps, guidance and dtype, and
the engine caches no prompt between batches, because the pipeline does not. Models of the catalogue
have random weights, which cost as much as trained ones. diffusers loads no such tokens into SANA,
so SANA is compared with nothing. The pipeline decodes a batch at once, the engine a few images at a
time; "out of memory" stands where only one of them fits.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import BenchmarkParser, write_json
from benchmarks.models.random_models import description, load_engine, load_pipeline, open_model
from benchmarks.models.random_tokenizers import PROMPT
from dti_engine import devices
from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.interface import Backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.files import environment
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.text.encoder import vocabulary_magnitude
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.autotune import measure_s

GUIDANCE = 5.0
PLACEHOLDER = "<subject>"
MINIATURE_PROMPT = "a photo of a {}"  # the miniature knows few words


def draw_tokens(backbone: Backbone, count: int) -> list[LearnedToken]:
    """Draw tokens of one vector per encoder: random directions, at the magnitude of words."""
    random = torch.Generator().manual_seed(0)

    def rows(name: str) -> torch.Tensor:
        encoder = backbone.text_encoders[name]
        drawn = torch.randn(1, encoder.dim, generator=random)
        return drawn * vocabulary_magnitude(encoder) / drawn.norm()

    return [
        LearnedToken(PLACEHOLDER, {name: rows(name) for name in backbone.text_encoders})
        for _ in range(count)
    ]


def engine_generator(
    backbone: Backbone, prompt: str, tokens: list[LearnedToken], **sizes: int
) -> Callable[[int], int]:
    """Return a function that generates a batch of `count` images.

    Each batch goes on with the tokens after those of the last batch.
    """
    next_token = 0

    def generate_images(count: int) -> int:
        nonlocal next_token
        requests = [
            ImageRequest(
                prompt.format(PLACEHOLDER),
                seed=number,
                tokens={PLACEHOLDER: tokens[(next_token + number) % len(tokens)]},
                guidance=GUIDANCE,
                instruction=False,
            )
            for number in range(count)
        ]
        next_token += count
        return len(generate(backbone, requests, batch_size=count, **sizes))

    return generate_images


def pipeline_generator(
    checkpoint: ModelFolder, backbone: Backbone, prompt: str, token: LearnedToken, **sizes: int
) -> Callable[[int], int]:
    """Return a function that has diffusers' pipeline generate a batch of `count` images."""
    device = backbone.device
    pipeline: Any = load_pipeline(checkpoint, device=device, dtype=backbone.dtype)
    pipeline.set_progress_bar_config(disable=True)
    # The engine's own sampler, so that both take the same denoising steps.
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


def batch_seconds(
    generate_images: Callable[[int], int], count: int, device: torch.device
) -> float | None:
    """Return the seconds that one batch takes, or None if memory runs out."""
    try:
        return measure_s(device, lambda: generate_images(count))
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
    devices.release_memory(device)
    return None


def compare(name: str, options: Any, *, device: torch.device, dtype: torch.dtype) -> list[Any]:
    """Return a row for each batch size, with the images per second of each generator."""
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
            generators["plain"] = pipeline_generator(
                checkpoint, backbone, prompt, tokens[0], **sizes
            )
        generators["1 token"] = engine_generator(backbone, prompt, tokens[:1], **sizes)
        generators[f"{len(tokens)} tokens"] = engine_generator(backbone, prompt, tokens, **sizes)
        rows: list[Any] = []
        for count in options.batches:
            # The first batch of a size also chooses kernels, so it is not timed.
            fitting = [
                each
                for each, generate_images in generators.items()
                if batch_seconds(generate_images, count, device)
            ]
            times: dict[str, list[float]] = {each: [] for each in fitting}
            for _ in range(options.repeats):
                for each in fitting:
                    elapsed = batch_seconds(generators[each], count, device)
                    times[each].append(elapsed or float("inf"))
            rates = {
                each: count / statistics.median(elapsed_s) for each, elapsed_s in times.items()
            }
            row = {"model": name, "side": side, "batch": count}
            row["images per second"] = {each: rates.get(each) for each in generators}
            rows.append(row)
        return rows


def results_table(rows: list[Any], device: torch.device, title: str) -> Table:
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
    parser = BenchmarkParser(__doc__)
    parser.add_models(words="miniature on a CPU, else sdxl sd15")
    parser.add_argument("--side", type=int, metavar="PX", help="default: each model's own")
    parser.add_argument("--small", action="store_true", help="few and narrow layers, to try it out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--tokens", type=int, default=64, help="number of different tokens, at least 2"
    )
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_dtype()
    parser.add_argument("--repeats", type=int, default=3)
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
        Console().print(results_table(rows, device, title))
        report["rows"] += rows
        # After each model, because time on a GPU may be short.
        write_json(options.json, report)
        devices.release_memory(device)


if __name__ == "__main__":
    main()
