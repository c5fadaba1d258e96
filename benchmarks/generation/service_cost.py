"""Images of the miniature through the service against the scheduler alone.

This is the part `service` of `continuous_batching`. The ratio of images a second is measured with
images of all steps (--steps). The CPU time that the service takes besides generating is a small
part of such an image, within the noise, so it is measured with images of one step.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.table import Table

from benchmarks.generation.images import MINIATURE_PROMPT, draw_tokens
from benchmarks.generation.load import PLACEHOLDER, TimedRequest, Workload
from benchmarks.generation.processes import (
    ENGINE,
    START_TIMEOUT_S,
    Pids,
    cpu_seconds,
    with_ray,
    without_ray,
)
from benchmarks.generation.stored_tokens import store_tokens
from benchmarks.service.subjects import Client
from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.errors import DTIError
from services.contracts.models import GenerationSettings, ServedModel
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings
from services.ledger.ledger import Ledger
from services.storage.open import open_store

SCHEDULER, WITHOUT_RAY, WITH_RAY = "the scheduler", "API and engine", "API, Ray Serve and engine"

BEYOND = "engine, beyond generating"

_TOKENS = 8


@dataclass(frozen=True)
class RequestCost:
    """Times of one run."""

    elapsed_s: float
    cpu_ms: dict[str, float]
    """CPU milliseconds per image, by part of the service."""


@dataclass(frozen=True)
class Round:
    """Results by way: with images of all steps, and with images of one step."""

    full: dict[str, RequestCost]
    one_step: dict[str, RequestCost]


class _LimitedRequest(TimedRequest):
    """A request that lets the next one be submitted when it ends."""

    def __init__(self, in_flight: threading.Semaphore, steps: int, number: int) -> None:
        super().__init__(0.0, steps, number)
        self._in_flight = in_flight

    def on_end(self, result: Image.Image | DTIError) -> None:
        super().on_end(result)
        self._in_flight.release()


@dataclass(frozen=True)
class RunningService:
    """A client of a running service, the ids of its tokens and its processes."""

    http: httpx.Client
    token_ids: list[str]
    pids: Pids


@dataclass(frozen=True)
class ServiceBenchmark:
    """The workload and the two ways to run it: the scheduler alone, and a service."""

    workload: Workload
    scheduler: BatchScheduler

    @property
    def max_in_flight(self) -> int:
        """Return the number of requests in flight: a full batch, and as many that wait for it."""
        return 2 * self.workload.max_batch_size

    def run_scheduler(self, count: int, steps: int) -> RequestCost:
        """Generate the images with the scheduler in this process, until they are in memory."""
        in_flight = threading.Semaphore(self.max_in_flight)
        began, cpu_began = time.perf_counter(), time.process_time()
        requests = [_LimitedRequest(in_flight, steps, number) for number in range(count)]
        for request in requests:
            in_flight.acquire()
            self.scheduler.submit([self.workload.request(request)])
        for request in requests:
            request.done.wait()
            assert not isinstance(request.result, DTIError), request.result
        elapsed_s = time.perf_counter() - began
        return RequestCost(elapsed_s, {ENGINE: 1000 * (time.process_time() - cpu_began) / count})

    def run_service(self, service: RunningService, count: int, steps: int) -> RequestCost:
        """Request the images over HTTP, until the client has received them."""

        def post(number: int) -> None:
            body = {
                "prompt": self.workload.prompt,
                "tokens": {PLACEHOLDER: service.token_ids[number % len(service.token_ids)]},
                "seed": number,
                "steps": steps,
                "instruction": False,
            }
            service.http.post("/v1/images/generations", json=body).raise_for_status()

        began, before = time.perf_counter(), cpu_seconds(service.pids)
        with ThreadPoolExecutor(self.max_in_flight) as pool:
            list(pool.map(post, range(count)))
        elapsed_s = time.perf_counter() - began
        cpu_ms = {
            name: 1000 * (now - before[name]) / count
            for name, now in cpu_seconds(service.pids).items()
        }
        return RequestCost(elapsed_s, cpu_ms)


def measure_service(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all ways in rounds and compare them; the order is reversed in every other round."""
    device = find_device("auto")
    backbone = load_backbone("miniature", device=device, dtype=find_dtype(options.dtype, device))
    side, steps = backbone.image_size, (options.steps, options.steps)
    prompt = MINIATURE_PROMPT.format(PLACEHOLDER)
    tokens = draw_tokens(backbone, _TOKENS)
    workload = Workload(backbone, tokens, prompt, (side, side), steps, options.batch_size)
    settings = BatchSchedulerSettings(
        max_batch_size=options.batch_size, queue_size=8 * options.batch_size
    )
    benchmark = ServiceBenchmark(workload, BatchScheduler(backbone, settings))
    benchmark.scheduler.start()
    ways: dict[str, Callable[[int, int], RequestCost]] = {SCHEDULER: benchmark.run_scheduler}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = {WITHOUT_RAY: without_ray}
        if options.through_ray:
            services[WITH_RAY] = with_ray
        for way, serve in services.items():
            store = str(folder / f"store-{len(ways)}")
            token_ids = store_tokens(Ledger.open(open_store(store)), tokens, backbone.fingerprint)
            served_models = _write_models(folder / "models.json", options)
            url, pids = stack.enter_context(serve(store, served_models, folder))
            client = Client(url, store)
            client.http.timeout = httpx.Timeout(START_TIMEOUT_S)
            stack.callback(client.http.close)
            ways[way] = partial(benchmark.run_service, RunningService(client.http, token_ids, pids))
        for way in ways.values():
            way(
                2 * _TOKENS, 1
            )  # fills the caches of tokens and encoded prompts, for all ways alike
        rounds = list[Round]()
        for number in range(options.rounds):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            full = {way: ways[way](options.images, options.steps) for way in order}
            one_step = {way: ways[way](options.images, 1) for way in order}
            rounds.append(Round(full, one_step))
    benchmark.scheduler.stop()
    return {
        "images": options.images,
        "steps": options.steps,
        "in flight": benchmark.max_in_flight,
        "rounds": [asdict(each) for each in rounds],
        "ways": {way: _compared(rounds, way) for way in ways if way != SCHEDULER},
    }


def _compared(rounds: list[Round], way: str) -> dict[str, Any]:
    """Compare a way with the scheduler in the same round; return medians over the rounds."""

    def median(figure: Callable[[Round], float]) -> float:
        return statistics.median(map(figure, rounds))

    def overhead_ms(each: Round) -> dict[str, float]:
        cpu_ms = each.one_step[way].cpu_ms
        beyond = cpu_ms[ENGINE] - each.one_step[SCHEDULER].cpu_ms[ENGINE]
        return {name: ms for name, ms in cpu_ms.items() if name != ENGINE} | {BEYOND: beyond}

    def overhead_share(each: Round) -> float:
        overhead = sum(overhead_ms(each).values())
        return overhead / (overhead + each.full[SCHEDULER].cpu_ms[ENGINE])

    def rate(each: Round) -> float:
        return each.full[SCHEDULER].elapsed_s / each.full[way].elapsed_s

    return {
        "images a second / the scheduler": median(rate),
        "CPU ms a request": {
            name: median(lambda each, name=name: overhead_ms(each)[name])
            for name in overhead_ms(rounds[0])
        },
        "share of CPU lost": median(overhead_share),
    }


def show_service(found: dict[str, Any]) -> Table:
    title = f"{found['images']} images of {found['steps']} steps, {found['in flight']} at a time"
    table = Table(
        "", "images a second / the scheduler", "CPU lost", "ms of CPU a request", title=title
    )
    for way, each in found["ways"].items():
        spent = ", ".join(f"{name} {ms:.1f}" for name, ms in each["CPU ms a request"].items())
        rate = f"{each['images a second / the scheduler']:.2f}"
        table.add_row(way, rate, f"{each['share of CPU lost']:.1%}", spent)
    return table


def _write_models(path: Path, options: argparse.Namespace) -> Path:
    gpus = int(find_device("auto").type == "cuda")
    generation = GenerationSettings(
        batch_size=options.batch_size, queue_size=8 * options.batch_size, max_engines=1
    )
    served_model = ServedModel(
        weights="miniature",
        recipe="miniature",
        gpus=gpus,
        dtype=options.dtype,
        generation=generation,
    )
    path.write_text(json.dumps({"miniature": served_model.model_dump(mode="json")}))
    return path
