"""Images of the miniature through the service, and the same ones through the scheduler alone.

How fast they are is seen with as many steps as are asked for. What the service uses of the CPU
beside generating is a small part of that, and is seen with images of one step.
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
from benchmarks.generation.load import PLACEHOLDER, Asked, Scene
from benchmarks.generation.processes import ENGINE, PATIENCE, Pids, on_ray, plain, used
from benchmarks.generation.stored_tokens import keep
from benchmarks.service.subjects import Client
from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.errors import DTIError
from services.contracts.models import GenerationSettings, ServedModel
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings
from services.ledger.ledger import Ledger
from services.storage.open import open_store

BARE, PLAIN, RAY = "the scheduler", "API and engine", "API, Ray Serve and engine"

BEYOND = "engine, beyond generating"

_TOKENS = 8


@dataclass(frozen=True)
class Course:
    """How one run went."""

    seconds: float
    cpu_ms: dict[str, float]
    """Of an image, by who has used it."""


@dataclass(frozen=True)
class Round:
    """Of all ways by name: with images of all steps, and of one."""

    whole: dict[str, Course]
    short: dict[str, Course]


class _Counted(Asked):
    """Makes room for another when it ends."""

    def __init__(self, room: threading.Semaphore, steps: int, number: int) -> None:
        super().__init__(0.0, steps, number)
        self._room = room

    def on_end(self, result: Image.Image | DTIError) -> None:
        super().on_end(result)
        self._room.release()


@dataclass(frozen=True)
class Served:
    """A service that runs."""

    http: httpx.Client
    names: list[str]
    """Of its tokens."""
    pids: Pids


@dataclass(frozen=True)
class Bench:
    """What all ways have in common."""

    scene: Scene
    scheduler: BatchScheduler

    @property
    def at_once(self) -> int:
        """As many wait as are in a call."""
        return 2 * self.scene.cap

    def bare(self, count: int, steps: int) -> Course:
        """Up to where they are images in memory."""
        room = threading.Semaphore(self.at_once)
        began, used = time.perf_counter(), time.process_time()
        asked = [_Counted(room, steps, number) for number in range(count)]
        for one in asked:
            room.acquire()
            self.scheduler.submit([self.scene.request(one)])
        for one in asked:
            one.done.wait()
            assert not isinstance(one.result, DTIError), one.result
        seconds = time.perf_counter() - began
        return Course(seconds, {ENGINE: 1000 * (time.process_time() - used) / count})

    def through(self, served: Served, count: int, steps: int) -> Course:
        """Up to where they have been received."""

        def ask(number: int) -> None:
            body = {
                "prompt": self.scene.prompt,
                "tokens": {PLACEHOLDER: served.names[number % len(served.names)]},
                "seed": number,
                "steps": steps,
                "instruction": False,
            }
            served.http.post("/v1/images/generations", json=body).raise_for_status()

        began, before = time.perf_counter(), used(served.pids)
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(ask, range(count)))
        seconds = time.perf_counter() - began
        spent = {
            name: 1000 * (now - before[name]) / count for name, now in used(served.pids).items()
        }
        return Course(seconds, spent)


def measure_service(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all ways, each in the other order than the one before."""
    device = find_device("auto")
    backbone = load_backbone("miniature", device=device, dtype=find_dtype(options.dtype, device))
    side, steps = backbone.image_size, (options.steps, options.steps)
    prompt = MINIATURE_PROMPT.format(PLACEHOLDER)
    tokens = draw_tokens(backbone, _TOKENS)
    scene = Scene(backbone, tokens, prompt, (side, side), steps, options.cap)
    settings = BatchSchedulerSettings(max_batch_size=options.cap, queue_size=4 * options.cap)
    bench = Bench(scene, BatchScheduler(backbone, settings))
    bench.scheduler.start()
    ways: dict[str, Callable[[int, int], Course]] = {BARE: bench.bare}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        served = {PLAIN: plain, RAY: on_ray} if options.through_ray else {PLAIN: plain}
        for way, serve in served.items():
            store = str(folder / f"store-{len(ways)}")
            names = keep(Ledger.open(open_store(store)), tokens, backbone.fingerprint)
            served_models = _write_models(folder / "models.json", options)
            url, pids = stack.enter_context(serve(store, served_models, folder))
            client = Client(url, store)
            client.http.timeout = httpx.Timeout(PATIENCE)
            stack.callback(client.http.close)
            ways[way] = partial(bench.through, Served(client.http, names, pids))
        for way in ways.values():
            way(2 * _TOKENS, 1)  # every token is known then, and so is its prompt
        rounds = list[Round]()
        for number in range(options.rounds):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            whole = {way: ways[way](options.images, options.steps) for way in order}
            short = {way: ways[way](options.images, 1) for way in order}
            rounds.append(Round(whole, short))
    bench.scheduler.stop()
    return {
        "images": options.images,
        "steps": options.steps,
        "at once": bench.at_once,
        "rounds": [asdict(each) for each in rounds],
        "ways": {way: _compared(rounds, way) for way in ways if way != BARE},
    }


def _compared(rounds: list[Round], way: str) -> dict[str, Any]:
    """Medians over the rounds, of one way against the scheduler of the same round."""

    def median(figure: Callable[[Round], float]) -> float:
        return statistics.median(map(figure, rounds))

    def spent(each: Round) -> dict[str, float]:
        ours = each.short[way].cpu_ms
        beyond = ours[ENGINE] - each.short[BARE].cpu_ms[ENGINE]
        return {name: ms for name, ms in ours.items() if name != ENGINE} | {BEYOND: beyond}

    def lost(each: Round) -> float:
        beside = sum(spent(each).values())
        return beside / (beside + each.whole[BARE].cpu_ms[ENGINE])

    def rate(each: Round) -> float:
        return each.whole[BARE].seconds / each.whole[way].seconds

    return {
        "images a second / the scheduler": median(rate),
        "CPU ms a request": {
            name: median(lambda each, name=name: spent(each)[name]) for name in spent(rounds[0])
        },
        "share of CPU lost": median(lost),
    }


def show_service(found: dict[str, Any]) -> Table:
    title = f"{found['images']} images of {found['steps']} steps, {found['at once']} at a time"
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
        batch_size=options.cap, queue_size=4 * options.cap, max_engines=1
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
