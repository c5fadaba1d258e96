"""Open-loop load: submits image requests to a scheduler at random moments and times each."""

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
from services.inference.scheduler.request_queue import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings

PLACEHOLDER = "<subject>"


@dataclass(eq=False)
class TimedRequest:
    """A request, its arrival time and its result. Implements `RequestCallbacks`."""

    arrival_s: float
    """Seconds after the first request."""
    steps: int
    number: int
    submitted_at: float = 0.0
    ended_at: float = 0.0
    result: Image.Image | DTIError | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def on_step(self, step: int, preview: Image.Image | None) -> None: ...

    def on_end(self, result: Image.Image | DTIError) -> None:
        self.result, self.ended_at = result, time.perf_counter()
        self.done.set()


class SimulatedDevice:
    """A backbone whose denoiser and decoder sleep as long as a large GPU would compute.

    A call takes `call_s` seconds for up to `full_rows` rows, and above that a time in proportion to
    the rows. Everything else is the given backbone's.
    """

    def __init__(self, backbone: Backbone, call_s: float, full_rows: int) -> None:
        self._backbone, self._call_s, self._full_rows = backbone, call_s, full_rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        time.sleep(self._call_s * max(1.0, len(noisy) / self._full_rows))
        return torch.zeros_like(noisy)

    def decode_latents(self, latents: Tensor) -> Tensor:
        time.sleep(self._call_s / self._full_rows * len(latents))
        return torch.zeros(len(latents), 3, 8, 8)


@dataclass(frozen=True)
class Workload:
    """The model, tokens, prompt and image size that all measured ways share."""

    backbone: Backbone
    tokens: Sequence[LearnedToken]
    prompt: str
    size: tuple[int, int]
    steps: tuple[int, int]
    """The minimum and the maximum of an image."""
    max_batch_size: int

    def request(self, timed: TimedRequest) -> ScheduledRequest:
        """Return the scheduler's request, of one of eight tenants in turn."""
        token = self.tokens[timed.number % len(self.tokens)]
        image = ImageRequest(self.prompt, timed.number, {PLACEHOLDER: token}, instruction=False)
        return ScheduledRequest(f"tenant-{timed.number % 8}", image, timed.steps, self.size, timed)


def poisson_arrivals(
    count: int, rate: float, steps: tuple[int, int], seed: int
) -> list[TimedRequest]:
    """Draw `count` requests of a Poisson process with `rate` requests a second."""
    rng, arrival_s, requests = random.Random(seed), 0.0, list[TimedRequest]()
    for number in range(count):
        requests.append(TimedRequest(arrival_s, rng.randint(*steps), number))
        arrival_s += rng.expovariate(rate)
    return requests


def capacity(workload: Workload, count: int) -> float:
    """Return the images a second that the scheduler generates while its queue is never empty."""
    arrivals = poisson_arrivals(count, 1, workload.steps, 0)
    requests = [TimedRequest(0.0, each.steps, each.number) for each in arrivals]
    run(workload, requests, queue_size=count)
    began = min(each.submitted_at for each in requests)
    return count / (max(each.ended_at for each in requests) - began)


def run(
    workload: Workload, requests: Sequence[TimedRequest], *, queue_size: int, joining: bool = True
) -> dict[str, Any]:
    """Submit each request at its arrival time, wait for all, and return counts and latencies.

    The load is open-loop: a late answer never delays the next request, so a slow scheduler cannot
    hide its latency by being asked less.
    """
    scheduler = BatchScheduler(
        workload.backbone,
        BatchSchedulerSettings(
            max_batch_size=workload.max_batch_size,
            # A tenant may have as many places as are left free.
            queue_size=2 * queue_size,
            continuous=joining,
            batch_turn_s=1e9,
        ),
    )
    scheduler.start()
    refused = 0
    began = time.perf_counter()
    for request in requests:
        time.sleep(max(0.0, began + request.arrival_s - time.perf_counter()))
        request.submitted_at = time.perf_counter()
        try:
            scheduler.submit([workload.request(request)])
        except QueueFullError as error:
            request.on_end(error)
            refused += 1
    for request in requests:
        request.done.wait()
    scheduler.stop()
    generated = [each for each in requests if isinstance(each.result, Image.Image)]
    failed = len(requests) - len(generated) - refused
    latencies_s = [each.ended_at - each.submitted_at for each in generated]
    percentiles = statistics.quantiles(latencies_s, n=100, method="inclusive")
    return {
        "generated": len(generated),
        "refused": refused,
        "failed": failed,
        "p50": percentiles[49],
        "p99": percentiles[98],
        "rate": len(generated) / (max(each.ended_at for each in generated) - began),
    }


def interleave(
    measurements: dict[str, Callable[[], dict[str, Any]]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Take every measurement once in each round, and return the results by name.

    Other load on the machine then slows all of them alike instead of the one that ran last.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measure in measurements.items():
            results[name].append(measure())
    return results


def median(runs: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(each[name] for each in runs)
