"""Subjects through a worker of the service, and the same ones through the engine alone."""

import argparse
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.service.subjects import (
    POOL,
    Client,
    Parcel,
    pack_subjects,
    submit_to_ledger,
    write_models,
)
from benchmarks.storage.counted_store import CountedStore
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.devices import find_device, find_dtype
from dti_engine.recipes import recipe
from dti_engine.training.loop import train
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.slot import TrainingSlot
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.local.service import LocalService, LocalServiceSettings, free_port
from services.settings import WorkerTimeouts
from services.storage.open import open_store
from services.training.metrics import WorkerMetrics
from services.training.worker import TrainingWorker

BARE, WORKER, HTTP = "the engine", "a worker", "`dti serve`"


@dataclass
class Course:
    """How one run went. Times in seconds, from its begin."""

    seconds: float = 0.0
    """Until the last subject was learned and, in the service, committed."""
    cpu_seconds: float = 0.0
    """Of this process, and of those that it has waited for."""
    first_step: float = 0.0
    """When it began."""
    last_step: float = 0.0
    """When it was done."""
    steps: int = 0
    stepping: float = 0.0
    """In steps; the rest is waiting, loading and encoding."""
    seated: int = 0
    """Subjects in steps, summed."""

    @property
    def between(self) -> float:
        """Seconds between steps."""
        return self.last_step - self.first_step - self.stepping

    @property
    def after(self) -> float:
        """Seconds after the last step."""
        return self.seconds - self.last_step

    def note(self, elapsed: float, seconds: float, used: int) -> None:
        """A step."""
        self.first_step = self.first_step or elapsed - seconds
        self.last_step = elapsed
        self.steps += 1
        self.stepping += seconds
        self.seated += used


class Watch(WorkerMetrics):
    """Of a worker, until so many subjects are over."""

    def __init__(self, course: Course, subjects: int) -> None:
        super().__init__()
        self.over, self.failures = threading.Event(), list[str]()
        self._course, self._left, self._began = course, subjects, time.perf_counter()

    def stepped(self, step_s: float, used: int, slots: int) -> None:
        self._course.note(time.perf_counter() - self._began, step_s, used)

    def attempt_ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        if how != "succeeded":
            self.failures.append(f"{attempt.item.name}: {how} {reason}")
        self._left -= 1
        if not self._left or self.failures:
            self._course.seconds = time.perf_counter() - self._began
            self.over.set()

    def subject_rejected(self, attempt: Attempt, error: Exception) -> None:
        self.attempt_ended(attempt, "failed", str(error))


class KeptStore(CountedStore):
    """Which counts checkpoints, too."""

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if name in ("create", "replace") and "/checkpoints/" in arguments[0]:
                self.calls["(checkpoints)"] += 1
            return method(*arguments, **named)

        return counted


@dataclass
class Bench:
    """What all ways have in common."""

    backbone: Backbone
    parcels: Sequence[Parcel]
    config: TrainConfig
    slots: int
    checkpoint: float
    folder: Path
    requests: Counter[str] = field(default_factory=Counter[str])
    """Of the latest worker, to its store."""

    def bare(self) -> Course:
        """By `train`, of images that are loaded."""
        course, began, mark = Course(), time.perf_counter(), [time.perf_counter()]

        def seat(slot: int, training_slot: TrainingSlot) -> None:
            mark[0] = time.perf_counter()

        def step(reports: list[StepMetrics]) -> None:
            now = time.perf_counter()
            course.note(now - began, now - mark[0], len(reports))
            mark[0] = now

        with _cpu(course):
            for result in train(
                self.backbone,
                (each.subject for each in self.parcels),
                self.config,
                num_slots=self.slots,
                flush_every=1,
                on_added=seat,
                on_step=step,
            ):
                assert result.artifact, result.error
                result.artifact.to_bytes()
                mark[0] = time.perf_counter()
            course.seconds = time.perf_counter() - began
        return course

    def worker(self) -> Course:
        """Of a job in a folder's store: from the worker's begin to its last commit."""
        number = len(list(self.folder.glob("store-*")))
        store = KeptStore(open_store(str(self.folder / f"store-{number}")))
        ledger = Ledger.open(store)
        submit_to_ledger(ledger, self.parcels, self.config)
        store.calls.clear()
        course = Course()
        with _cpu(course):
            watch = Watch(course, len(self.parcels))
            worker = TrainingWorker(
                ledger,
                POOL,
                self.backbone,
                num_slots=self.slots,
                timeouts=WorkerTimeouts(checkpoint_interval_s=self.checkpoint),
                metrics=watch,
            )
            thread = threading.Thread(target=worker.run)
            thread.start()
            watch.over.wait()
            self.requests = Counter(store.calls)
        worker.drain()
        thread.join()
        assert not watch.failures, watch.failures
        return course

    def through(self, client: Client) -> Course:
        """From submission to the last token; uploads come before."""
        began = time.perf_counter()
        client.wait_until_ended(client.submit(self.parcels, self.config))
        return Course(seconds=time.perf_counter() - began)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rounds of all ways, each in the other order than the one before."""
    device = find_device("auto")
    bench = Bench(
        load_backbone("miniature", device=device, dtype=find_dtype("auto", device)),
        pack_subjects(options.subjects, folder / "photos"),
        recipe("miniature").changed(steps=options.steps),
        options.slots,
        options.checkpoint,
        folder,
    )
    ways: dict[str, Callable[[], Course]] = {BARE: bench.bare, WORKER: bench.worker}
    with ExitStack() as stack:
        if options.through_http:
            client = stack.enter_context(_served(bench, options))
            ways[HTTP] = lambda: bench.through(client)
        _warm_up(bench)
        rounds = list[dict[str, Course]]()
        for number in range(options.repeats):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            found = {way: ways[way]() for way in order}
            rounds.append({way: found[way] for way in ways})
    subjects = len(bench.parcels)
    requests = bench.requests.copy()
    checkpoints = requests.pop("(checkpoints)", 0)
    return {
        "subjects": subjects,
        "steps": bench.config.steps,
        "slots": bench.slots,
        "seconds between checkpoints": bench.checkpoint,
        "rounds": [{way: vars(course) for way, course in each.items()} for each in rounds],
        "subjects an hour": {
            way: statistics.median(3600 * subjects / each[way].seconds for each in rounds)
            for way in ways
        },
        "share lost": {
            way: _spread([1 - each[BARE].seconds / each[way].seconds for each in rounds])
            for way in ways
            if way != BARE
        },
        "share of CPU lost": _spread(
            [1 - each[BARE].cpu_seconds / each[WORKER].cpu_seconds for each in rounds]
        ),
        "seconds lost": _where(rounds),
        "requests a subject": requests.total() / subjects,
        "checkpoints a subject": checkpoints / subjects,
    }


def _spread(shares: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(shares), "least": min(shares), "most": max(shares)}


def _where(rounds: Sequence[dict[str, Course]]) -> dict[str, float]:
    """Where a worker loses its seconds to the engine: means of all pairs, which add up."""
    parts = Counter[str]()
    for each in rounds:
        bare, ours = each[BARE], each[WORKER]
        usual = bare.stepping / bare.steps
        found = {
            "until the first step": ours.first_step - bare.first_step,
            "more steps, as slots were empty": (ours.steps - bare.steps) * usual,
            "slower steps": ours.stepping - ours.steps * usual,
            "between steps": ours.between - bare.between,
            "after the last step": ours.after - bare.after,
        }
        for name, seconds in found.items():
            parts[name] += seconds / len(rounds)  # type: ignore[assignment]
    return dict(parts)


def _warm_up(bench: Bench) -> None:
    """What comes first in a process is slow."""
    few = Bench(
        bench.backbone,
        bench.parcels[:1],
        bench.config.changed(steps=3),
        bench.slots,
        bench.checkpoint,
        bench.folder,
    )
    few.bare()
    few.worker()


@contextmanager
def _served(bench: Bench, options: argparse.Namespace) -> Iterator[Client]:
    """`dti serve` with a worker that has its model loaded and has learned something."""
    gpus = int(bench.backbone.device.type == "cuda")
    settings = LocalServiceSettings(
        store=str(bench.folder / "served"),
        port=free_port(),
        models=write_models(bench.folder / "models.json", slots=bench.slots, gpus=gpus),
        engines=False,
        cpus=2 * options.threads,  # of which a worker's torch gets half
        checkpoint_interval_s=bench.checkpoint,
    )
    with LocalService(settings) as service:
        service.wait_until_ready(300)
        client = Client(service.url, settings.store)
        client.upload(bench.parcels)
        warm_up = bench.config.changed(steps=3)
        client.wait_until_ended(client.submit(bench.parcels[: bench.slots], warm_up))
        yield client
        client.http.close()


@contextmanager
def _cpu(course: Course) -> Iterator[None]:
    began = sum(os.times()[:4])
    yield
    course.cpu_seconds = sum(os.times()[:4]) - began


def show(console: Console, found: dict[str, Any]) -> None:
    title = f"{found['subjects']} subjects of {found['steps']} steps in {found['slots']} slots"
    headings = ("subjects an hour", "share lost", "steps", "slots used", "s of CPU")
    table = Table("", *headings, title=title)
    for way, hourly in found["subjects an hour"].items():
        runs = [each[way] for each in found["rounds"]]
        steps = statistics.mean(each["steps"] for each in runs)
        used = statistics.mean(each["seated"] for each in runs) / max(1, steps) / found["slots"]
        cpu = statistics.mean(each["cpu_seconds"] for each in runs)
        inside = (f"{steps:.0f}", f"{used:.0%}", f"{cpu:.1f}") if steps else ("", "", "")
        share = found["share lost"].get(way)
        table.add_row(way, f"{hourly:.0f}", _said(share) if share else "", *inside)
    console.print(table)
    table = Table("of a worker's seconds, lost to the engine", "seconds", "share")
    mean = statistics.mean(each[WORKER]["seconds"] for each in found["rounds"])
    for name, seconds in found["seconds lost"].items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / mean:.1%}")
    console.print(table)
    console.print(
        f"{len(found['rounds'])} rounds. A worker loses {_said(found['share of CPU lost'])} of the "
        "processors' time, which counts whatever else is at work. For each subject: "
        f"{found['requests a subject']:.1f} requests to the store, "
        f"{found['checkpoints a subject']:.1f} checkpoints."
    )


def _said(share: dict[str, float]) -> str:
    return "{median:.1%} ({least:.1%} to {most:.1%})".format(**share)
