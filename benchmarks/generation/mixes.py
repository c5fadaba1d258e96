"""Ways to generate images of many tokens, for the part `mixes` of `continuous_batching`."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation.load import PLACEHOLDER, Workload
from benchmarks.generation.stored_tokens import TENANT, store_tokens
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
    """The tokens of a workload in a folder's store, and specifications of images with them."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        self._ledger = Ledger.open(open_store(str(folder)))
        self._token_ids = store_tokens(self._ledger, workload.tokens, workload.backbone.fingerprint)
        self._signature = ModelSignature.of(workload.backbone)

    @contextmanager
    def resolver(self) -> Iterator[PlaceholderResolver]:
        """Yield a resolver whose caches are empty."""
        cache = TokenCache(self._ledger, self._signature)
        yield PlaceholderResolver(cache, BlendCache(cache))
        cache.close()

    def image(self, number: int) -> ImageSpec:
        """Return the image with this number: of one token, or every eighth of a blend of two."""
        first, second = (
            self._token_ids[each % len(self._token_ids)] for each in (number, number + 1)
        )
        if number % 8 < 7:
            return ImageSpec(prompt=PLACEHOLDER, seed=number, tokens={PLACEHOLDER: first})
        parts = tuple(BlendPart(token=name, weight=0.5) for name in (first, second))
        return ImageSpec(prompt=PLACEHOLDER, seed=number, blends={PLACEHOLDER: parts})


def _generate_images(
    workload: Workload,
    steps: int,
    tokens_by_image: Sequence[Mapping[str, LearnedToken]],
    batch_size: int,
    prompt_cache: PromptCache,
) -> None:
    """Generate one image with each of these tokens by placeholder."""
    height, width = workload.size
    requests = [
        ImageRequest(workload.prompt, number, tokens, instruction=False)
        for number, tokens in enumerate(tokens_by_image)
    ]
    generate(
        workload.backbone,
        requests,
        steps=steps,
        batch_size=batch_size,
        height=height,
        width=width,
        prompt_cache=prompt_cache,
    )


def make_generators(
    workload: Workload, steps: int, count: int, folder: Path
) -> dict[str, Callable[[], None]]:
    """Return functions that generate `count` images each, by name, in full batches unless noted.

    one token          one token for all images; its encoded prompt is cached
    many tokens, warm  another token for each image; the encoded prompts are cached
    many tokens, cold  another token or a blend of two for each image, from a store in `folder`: all
                       are fetched, checked and blended first; no prompt is cached
    same token only    the images of eight tenants in batches of one token each, as engines do that
                       load an adapter for each batch
    """
    generate_images = partial(_generate_images, workload, steps)

    def generate_warm(
        tokens: Sequence[LearnedToken], batch_size: int, prompt_cache: PromptCache
    ) -> None:
        tokens_by_image = [{PLACEHOLDER: tokens[number % len(tokens)]} for number in range(count)]
        generate_images(tokens_by_image, batch_size, prompt_cache)

    token_store = StoredTokens(workload, folder)

    def generate_cold() -> None:
        with (
            token_store.resolver() as resolver,
            ThreadPoolExecutor(workload.max_batch_size) as pool,
        ):
            images = map(token_store.image, range(count))
            tokens_by_image = list(
                pool.map(lambda image: resolver.resolve(TENANT, image).tokens, images)
            )
        generate_images(tokens_by_image, workload.max_batch_size, PromptCache(workload.backbone))

    one_token, many_tokens = PromptCache(workload.backbone), PromptCache(workload.backbone)
    return {
        "one token": lambda: generate_warm(workload.tokens[:1], workload.max_batch_size, one_token),
        "many tokens, warm": lambda: generate_warm(
            workload.tokens, workload.max_batch_size, many_tokens
        ),
        "many tokens, cold": generate_cold,
        # Fair to the alternative: where a batch has the images of eight tenants, each tenant has an
        # eighth of them waiting, so batches of one token are an eighth as large.
        "same token only": lambda: generate_warm(
            workload.tokens, max(1, workload.max_batch_size // 8), many_tokens
        ),
    }


def load_for_each_image(
    pipeline: Any, workload: Workload, steps: int, count: int
) -> Callable[[], None]:
    """Return a function that has diffusers load a token before each image and unload it after."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = workload.backbone.new_scheduler()
    height, width = workload.size

    def generate_images() -> None:
        for number in range(count):
            token = workload.tokens[number % len(workload.tokens)]
            for name, rows in token.embeddings.items():
                encoder = getattr(pipeline, name)
                tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
                pipeline.load_textual_inversion(
                    {PLACEHOLDER: rows[0]}, text_encoder=encoder, tokenizer=tokenizer
                )
            pipeline(
                workload.prompt,
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


def measure_rates(
    generators: dict[str, Callable[[], None]], count: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """Return the images a second of each generator, as a median of `rounds` interleaved rounds.

    The first round warms caches and kernels and is not counted.
    """
    elapsed_s: dict[str, list[float]] = {name: [] for name in generators}
    for number in range(rounds + 1):
        for name, generate_images in generators.items():
            began = time.perf_counter()
            generate_images()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                elapsed_s[name].append(time.perf_counter() - began)
    return {name: count / statistics.median(each) for name, each in elapsed_s.items()}
