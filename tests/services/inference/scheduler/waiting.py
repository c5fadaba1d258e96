"""Those who wait for images, in tests; and models that break where they are told to."""

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
from services.inference.scheduler.request import ScheduledRequest


class Waiting:
    """Implements `Listener`: keeps all that it hears."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.previews: list[Image.Image] = []
        self.outcomes: list[Image.Image | DTIError] = []
        self.ended_at = 0.0
        self._ended = threading.Event()

    def stepped(self, step: int, preview: Image.Image | None) -> None:
        self.steps.append(step)
        if preview:
            self.previews.append(preview)

    def ended(self, outcome: Image.Image | DTIError) -> None:
        self.outcomes.append(outcome)
        self.ended_at = time.monotonic()
        self._ended.set()

    def image(self, seconds: float = 30) -> Image.Image:
        outcome = self.outcome(seconds)
        assert isinstance(outcome, Image.Image), outcome
        return outcome

    def error(self, seconds: float = 30) -> DTIError:
        outcome = self.outcome(seconds)
        assert isinstance(outcome, DTIError), outcome
        return outcome

    def outcome(self, seconds: float = 30) -> Image.Image | DTIError:
        assert self._ended.wait(seconds), "nothing came of it"
        return self.outcomes[0]


def ticket(
    prompt: str = "a photo of a dog", tenant: str = "ann", seed: int = 0, **options: Any
) -> tuple[ScheduledRequest, Waiting]:
    """An image that is waited for; options of `ScheduledRequest` and `ImageRequest`."""
    waiting = Waiting()
    of_request = {
        name: options.pop(name)
        for name in ("tokens", "guidance", "negative_prompt")
        if name in options
    }
    options = {"steps": 4, "size": (16, 16), **options}
    return ScheduledRequest(
        tenant, ImageRequest(prompt, seed, **of_request), listener=waiting, **options
    ), (waiting)


def token() -> LearnedToken:
    return LearnedToken("<rex>", {"text_encoder": torch.randn(1, 32)})


class Model:
    """A backbone that notes its calls, and does something before each."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.calls: list[int] = []
        """Rows of each."""
        self.before: Callable[[Tensor, Conditioning], None] = lambda noisy, conditioning: None
        self.reading: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_prompts(self, *arguments: Any) -> Conditioning:
        self.reading()
        return self._backbone.encode_prompts(*arguments)

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append(len(noisy))
        self.before(noisy, conditioning)
        return self._backbone.denoise(noisy, timesteps, conditioning)
