"""Requests whose callbacks record what happens, and a model that can fail on demand."""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest
from dti_engine.text.tokens import LearnedToken
from services.inference.scheduler.request_queue import ScheduledRequest


class Recorder:
    """Records what happens to one image. Implements `RequestCallbacks`."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.previews: list[Image.Image] = []
        self.results: list[Image.Image | DTIError] = []
        self.ended_at = 0.0
        self._ended = threading.Event()

    def on_step(self, step: int, preview: Image.Image | None) -> None:
        self.steps.append(step)
        if preview:
            self.previews.append(preview)

    def on_end(self, result: Image.Image | DTIError) -> None:
        self.results.append(result)
        self.ended_at = time.monotonic()
        self._ended.set()

    def image(self, timeout_s: float = 30) -> Image.Image:
        result = self.result(timeout_s)
        assert isinstance(result, Image.Image), result
        return result

    def error(self, timeout_s: float = 30) -> DTIError:
        result = self.result(timeout_s)
        assert isinstance(result, DTIError), result
        return result

    def result(self, timeout_s: float = 30) -> Image.Image | DTIError:
        assert self._ended.wait(timeout_s), "the image has not ended"
        return self.results[0]


def make_request(
    prompt: str = "a photo of a dog", tenant: str = "ann", seed: int = 0, **options: Any
) -> tuple[ScheduledRequest, Recorder]:
    """Return a request and its callbacks; options of `ScheduledRequest` and `ImageRequest`."""
    recorder = Recorder()
    image_options = {
        name: options.pop(name)
        for name in ("tokens", "guidance", "negative_prompt")
        if name in options
    }
    options = {"steps": 4, "size": (16, 16), **options}
    image = ImageRequest(prompt, seed, **image_options)
    return ScheduledRequest(tenant, image, callbacks=recorder, **options), recorder


def random_token() -> LearnedToken:
    return LearnedToken("<rex>", {"text_encoder": torch.randn(1, 32)})


class InstrumentedModel:
    """A backbone that records its calls, and runs a function before each."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.calls: list[int] = []
        """The number of rows of each call."""
        self.before: Callable[[Tensor, Conditioning], None] = lambda noisy, conditioning: None
        self.before_encoding: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_prompts(self, *arguments: Any) -> Conditioning:
        self.before_encoding()
        return self._backbone.encode_prompts(*arguments)

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append(len(noisy))
        self.before(noisy, conditioning)
        return self._backbone.denoise(noisy, timesteps, conditioning)
