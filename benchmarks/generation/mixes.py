"""Batches of other tenants' tokens, against batches of one token and against a pipeline that loads
and unloads a token for each image.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation.load import PLACEHOLDER, Scene
from benchmarks.generation.stored_tokens import TENANT, keep
from dti_engine.generation.pipeline import ImageRequest, generate
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.text.tokens import LearnedToken
from services.contracts.generation import BlendPart, ImageSpec
from services.inference.tokens.blends import BlendCache, PlaceholderResolver
from services.inference.tokens.cache import TokenCache
from services.inference.tokens.loader import ModelSignature
from services.ledger.ledger import Ledger
from services.storage.open import open_store


class StoredTokens:
    """The tokens of a scene in a folder's store, and images of them."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._ledger = Ledger.open(open_store(str(folder)))
        self._names = keep(self._ledger, scene.tokens, scene.backbone.fingerprint)
        self._fit = ModelSignature.of(scene.backbone)

    @contextmanager
    def resolver(self) -> Iterator[PlaceholderResolver]:
        """A new one, which knows nothing."""
        cache = TokenCache(self._ledger, self._fit)
        yield PlaceholderResolver(cache, BlendCache(cache))
        cache.close()

    def image(self, number: int) -> ImageSpec:
        """Of a token; every eighth of a blend of two."""
        first, second = (self._names[each % len(self._names)] for each in (number, number + 1))
        if number % 8 < 7:
            return ImageSpec(prompt=PLACEHOLDER, seed=number, tokens={PLACEHOLDER: first})
        parts = tuple(BlendPart(token=name, weight=0.5) for name in (first, second))
        return ImageSpec(prompt=PLACEHOLDER, seed=number, blends={PLACEHOLDER: parts})


def generators(scene: Scene, steps: int, count: int, folder: Path) -> dict[str, Callable[[], None]]:
    """By name; each generates `count` images, in full batches where nothing else is said.

    one token       all of one token; its prompt is known
    N tokens, warm  each of another token; prompts are known
    N tokens, cold  each of another token, or a blend of two, out of a store in `folder`: all are
                    fetched, checked and blended, then generated; no prompt is known
    same token      each of another token, of eight tenants: batches of one token's images only,
                    as engines do that load an adapter for a batch
    """
    height, width = scene.size

    def generate_images(
        known: Sequence[Mapping[str, LearnedToken]], cap: int, prompt_cache: PromptCache
    ) -> None:
        """known: what the placeholder stands for, of each image."""
        requests = [
            ImageRequest(scene.prompt, number, tokens, instruction=False)
            for number, tokens in enumerate(known)
        ]
        generate(
            scene.backbone,
            requests,
            steps=steps,
            batch_size=cap,
            height=height,
            width=width,
            prompt_cache=prompt_cache,
        )

    def generate_known(tokens: Sequence[LearnedToken], cap: int, prompt_cache: PromptCache) -> None:
        known = [{PLACEHOLDER: tokens[number % len(tokens)]} for number in range(count)]
        generate_images(known, cap, prompt_cache)

    token_store = StoredTokens(scene, folder)

    def generate_cold() -> None:
        with token_store.resolver() as resolver, ThreadPoolExecutor(scene.cap) as pool:
            asked = map(token_store.image, range(count))
            known = list(pool.map(lambda one: resolver.resolve(TENANT, one).tokens, asked))
        generate_images(known, scene.cap, PromptCache(scene.backbone))

    one, many = PromptCache(scene.backbone), PromptCache(scene.backbone)
    return {
        "one token": lambda: generate_known(scene.tokens[:1], scene.cap, one),
        "many tokens, warm": lambda: generate_known(scene.tokens, scene.cap, many),
        "many tokens, cold": generate_cold,
        # Each of eight tenants has as many images as fit into an eighth of the batch.
        "same token only": lambda: generate_known(scene.tokens, max(1, scene.cap // 8), many),
    }


def naive(pipeline: Any, scene: Scene, steps: int, count: int) -> Callable[[], None]:
    """A token is loaded before each image, and unloaded after it, as diffusers has it."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scene.backbone.new_scheduler()
    height, width = scene.size

    def generate_images() -> None:
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

    return generate_images


def rates(
    makers: dict[str, Callable[[], None]], count: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """Images a second of each, by turns; the first round is not counted."""
    took: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds + 1):
        for name, generate_images in makers.items():
            began = time.perf_counter()
            generate_images()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                took[name].append(time.perf_counter() - began)
    return {name: count / statistics.median(each) for name, each in took.items()}
