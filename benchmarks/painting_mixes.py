"""Batches of other tenants' tokens, against batches of one token and against a pipeline that loads
and unloads a token for each picture.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from painting_load import PLACEHOLDER, Scene

from dti_engine.conditioning import PromptReader
from dti_engine.generation import ImageRequest, generate
from dti_engine.tokens import LearnedToken


def painters(scene: Scene, steps: int, count: int) -> dict[str, Callable[[], None]]:
    """By name; each paints `count` pictures.

    one token       all of one token, in full batches
    N tokens, warm  each of another token, in full batches; prompts are known
    N tokens, cold  the same, and no prompt is known
    same token      each of another token, of eight tenants: batches of one token's pictures only,
                    as engines do that load an adapter for a batch
    """
    height, width = scene.size

    def paint(tokens: Sequence[LearnedToken], cap: int, reader: PromptReader | None) -> None:
        requests = [
            ImageRequest(
                scene.prompt,
                number,
                {PLACEHOLDER: tokens[number % len(tokens)]},
                instruction=False,
            )
            for number in range(count)
        ]
        generate(
            scene.backbone,
            requests,
            steps=steps,
            batch_size=cap,
            height=height,
            width=width,
            reader=reader,
        )

    one, many = PromptReader(scene.backbone), PromptReader(scene.backbone)
    return {
        "one token": lambda: paint(scene.tokens[:1], scene.cap, one),
        "many tokens, warm": lambda: paint(scene.tokens, scene.cap, many),
        "many tokens, cold": lambda: paint(scene.tokens, scene.cap, None),
        # Each of eight tenants has as many pictures as fit into an eighth of the batch.
        "same token only": lambda: paint(scene.tokens, max(1, scene.cap // 8), many),
    }


def naive(pipeline: Any, scene: Scene, steps: int, count: int) -> Callable[[], None]:
    """A token is loaded before each picture, and unloaded after it, as diffusers has it."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scene.backbone.new_scheduler()
    height, width = scene.size

    def paint() -> None:
        for number in range(count):
            token = scene.tokens[number % len(scene.tokens)]
            for name, rows in token.embeddings.items():
                encoder = getattr(pipeline, name)
                tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
                pipeline.load_textual_inversion(
                    {PLACEHOLDER: rows[0]}, text_encoder=encoder, tokenizer=tokenizer
                )
            pipeline(
                scene.prompt,
                num_inference_steps=steps,
                guidance_scale=5.0,
                height=height,
                width=width,
                generator=torch.Generator().manual_seed(number),
            )
            for name in token.embeddings:
                encoder = getattr(pipeline, name)
                tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
                pipeline.unload_textual_inversion(
                    PLACEHOLDER, text_encoder=encoder, tokenizer=tokenizer
                )

    return paint


def rates(
    makers: dict[str, Callable[[], None]], count: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """Pictures a second of each, by turns; the first round is not counted."""
    took: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds + 1):
        for name, paint in makers.items():
            began = time.perf_counter()
            paint()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                took[name].append(time.perf_counter() - began)
    return {name: count / statistics.median(each) for name, each in took.items()}
