"""Images that are asked for at random moments, of a scheduler: how long each takes."""

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import DTIError
from dti_engine.generation.denoiser import ImageRequest
from dti_engine.text.tokens import LearnedToken
from services.errors import QueueFullError
from services.inference.scheduler.request import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings

PLACEHOLDER = "<subject>"


@dataclass(eq=False)
class Asked:
    """An image that somebody waits for. Implements `RequestCallbacks`."""

    at: float
    """Seconds after the first one."""
    steps: int
    number: int
    asked_at: float = 0.0
    ended_at: float = 0.0
    result: Image.Image | DTIError | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def on_step(self, step: int, preview: Image.Image | None) -> None: ...

    def on_end(self, result: Image.Image | DTIError) -> None:
        self.result, self.ended_at = result, time.perf_counter()
        self.done.set()


class Pretended:
    """A model on a device that is not there: a call takes so many seconds for up to `knee` rows,
    and then in proportion. All but the denoiser is of another model.
    """

    def __init__(self, backbone: Backbone, seconds: float, knee: int) -> None:
        self._backbone, self._seconds, self._knee = backbone, seconds, knee

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        time.sleep(self._seconds * max(1.0, len(noisy) / self._knee))
        return torch.zeros_like(noisy)

    def decode_latents(self, latents: Tensor) -> Tensor:
        time.sleep(self._seconds / self._knee * len(latents))
        return torch.zeros(len(latents), 3, 8, 8)


@dataclass(frozen=True)
class Scene:
    """What is generated."""

    backbone: Backbone
    tokens: Sequence[LearnedToken]
    prompt: str
    size: tuple[int, int]
    steps: tuple[int, int]
    """The fewest and the most of an image."""
    cap: int

    def request(self, asked: Asked) -> ScheduledRequest:
        token = self.tokens[asked.number % len(self.tokens)]
        image = ImageRequest(self.prompt, asked.number, {PLACEHOLDER: token}, instruction=False)
        return ScheduledRequest(f"tenant-{asked.number % 8}", image, asked.steps, self.size, asked)


def arrivals(count: int, rate: float, steps: tuple[int, int], seed: int) -> list[Asked]:
    """A Poisson process: so many, `rate` a second."""
    chance, at, found = random.Random(seed), 0.0, list[Asked]()
    for number in range(count):
        found.append(Asked(at, chance.randint(*steps), number))
        at += chance.expovariate(rate)
    return found


def capacity(scene: Scene, count: int) -> float:
    """Images a second while there are always more than there is room for."""
    asked = [Asked(0.0, each.steps, each.number) for each in arrivals(count, 1, scene.steps, 0)]
    run(scene, asked, queue=count)
    return count / (max(one.ended_at for one in asked) - min(one.asked_at for one in asked))


def run(
    scene: Scene, asked: Sequence[Asked], *, queue: int, joining: bool = True
) -> dict[str, Any]:
    """Ask for each when its time has come, and wait for all."""
    scheduler = BatchScheduler(
        scene.backbone,
        BatchSchedulerSettings(
            max_batch_size=scene.cap, queue_size=queue, continuous=joining, batch_turn_s=1e9
        ),
    )
    scheduler.start()
    refused = 0
    began = time.perf_counter()
    for one in asked:
        time.sleep(max(0.0, began + one.at - time.perf_counter()))
        one.asked_at = time.perf_counter()
        try:
            scheduler.submit([scene.request(one)])
        except QueueFullError as error:
            one.on_end(error)
            refused += 1
    for one in asked:
        one.done.wait()
    scheduler.stop()
    generated = [one for one in asked if isinstance(one.result, Image.Image)]
    broken = len(asked) - len(generated) - refused
    took = [one.ended_at - one.asked_at for one in generated]
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {
        "generated": len(generated),
        "refused": refused,
        "broken": broken,
        "p50": cuts[49],
        "p99": cuts[98],
        "rate": len(generated) / (max(one.ended_at for one in generated) - began),
    }


def in_turns(
    makers: dict[str, Callable[[], dict[str, Any]]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Each of them in each round, so that what else the machine does hits all alike."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            found[name].append(make())
    return found


def median(runs: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(each[name] for each in runs)
