"""Subjects through a worker of the service, against the same subjects through the engine alone.

This is the part `throughput` of `benchmarks.service`.
"""

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
    PackedSubject,
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

ENGINE, WORKER, HTTP = "the engine", "a worker", "`dti serve`"


@dataclass
class RunResult:
    """Times of one run, in seconds from its begin."""

    seconds: float = 0.0
    """When the last subject was learned and, in the service, committed."""
    cpu_seconds: float = 0.0
    """CPU time of this process, and of its ended child processes."""
    first_step: float = 0.0
    """When the first step began."""
    last_step: float = 0.0
    """When the last step ended."""
    steps: int = 0
    stepping: float = 0.0
    """Time in steps; the rest is waiting, loading and encoding."""
    slots_used: int = 0
    """The numbers of subjects in each step, summed."""

    @property
    def between(self) -> float:
        """Return the seconds between steps."""
        return self.last_step - self.first_step - self.stepping

    @property
    def after(self) -> float:
        """Return the seconds after the last step."""
        return self.seconds - self.last_step

    def add_step(self, elapsed: float, seconds: float, used: int) -> None:
        """Add a step that ended `elapsed` seconds after the begin and took `seconds`."""
        self.first_step = self.first_step or elapsed - seconds
        self.last_step = elapsed
        self.steps += 1
        self.stepping += seconds
        self.slots_used += used


class RecordingMetrics(WorkerMetrics):
    """Records the steps of a worker, until `subjects` subjects have ended."""

    def __init__(self, result: RunResult, subjects: int) -> None:
        super().__init__()
        self.ended, self.failures = threading.Event(), list[str]()
        self._result, self._left, self._began = result, subjects, time.perf_counter()

    def stepped(self, step_s: float, used: int, slots: int) -> None:
        self._result.add_step(time.perf_counter() - self._began, step_s, used)

    def attempt_ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        if how != "succeeded":
            self.failures.append(f"{attempt.item.name}: {how} {reason}")
        self._left -= 1
        if not self._left or self.failures:
            self._result.seconds = time.perf_counter() - self._began
            self.ended.set()

    def subject_rejected(self, attempt: Attempt, error: Exception) -> None:
        self.attempt_ended(attempt, "failed", str(error))


class CheckpointCountingStore(CountedStore):
    """A counted store that also counts writes of checkpoints."""

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if name in ("create", "replace") and "/checkpoints/" in arguments[0]:
                self.calls["(checkpoints)"] += 1
            return method(*arguments, **named)

        return counted


@dataclass
class ThroughputBenchmark:
    """The subjects and settings of all ways, and a method for each way."""

    backbone: Backbone
    subjects: Sequence[PackedSubject]
    config: TrainConfig
    slots: int
    checkpoint: float
    folder: Path
    requests: Counter[str] = field(default_factory=Counter[str])
    """The requests of the latest worker to its store, by method."""

    def run_engine(self) -> RunResult:
        """Train with `train`, on images that are already loaded."""
        run, began, step_began = RunResult(), time.perf_counter(), [time.perf_counter()]

        def start(slot: int, training_slot: TrainingSlot) -> None:
            step_began[0] = time.perf_counter()

        def step(metrics: list[StepMetrics]) -> None:
            now = time.perf_counter()
            run.add_step(now - began, now - step_began[0], len(metrics))
            step_began[0] = now

        with _cpu(run):
            for result in train(
                self.backbone,
                (each.subject for each in self.subjects),
                self.config,
                num_slots=self.slots,
                flush_every=1,
                on_added=start,
                on_step=step,
            ):
                assert result.artifact, result.error
                result.artifact.to_bytes()
                step_began[0] = time.perf_counter()
            run.seconds = time.perf_counter() - began
        return run

    def run_worker(self) -> RunResult:
        """Run a job with a worker on a folder's store, from its begin to its last commit."""
        number = len(list(self.folder.glob("store-*")))
        store = CheckpointCountingStore(open_store(str(self.folder / f"store-{number}")))
        ledger = Ledger.open(store)
        submit_to_ledger(ledger, self.subjects, self.config)
        store.calls.clear()
        run = RunResult()
        with _cpu(run):
            metrics = RecordingMetrics(run, len(self.subjects))
            worker = TrainingWorker(
                ledger,
                POOL,
                self.backbone,
                num_slots=self.slots,
                timeouts=WorkerTimeouts(checkpoint_interval_s=self.checkpoint),
                metrics=metrics,
            )
            thread = threading.Thread(target=worker.run)
            thread.start()
            metrics.ended.wait()
            self.requests = Counter(store.calls)
        worker.drain()
        thread.join()
        assert not metrics.failures, metrics.failures
        return run

    def run_service(self, client: Client) -> RunResult:
        """Run a job through `dti serve`, from submission to the last token, without the uploads."""
        began = time.perf_counter()
        client.wait_until_ended(client.submit(self.subjects, self.config))
        return RunResult(seconds=time.perf_counter() - began)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all ways in rounds and compare them; the order is reversed in every other round."""
    device = find_device("auto")
    benchmark = ThroughputBenchmark(
        load_backbone("miniature", device=device, dtype=find_dtype("auto", device)),
        pack_subjects(options.subjects, folder / "photos"),
        recipe("miniature").changed(steps=options.steps),
        options.slots,
        options.checkpoint,
        folder,
    )
    ways: dict[str, Callable[[], RunResult]] = {
        ENGINE: benchmark.run_engine,
        WORKER: benchmark.run_worker,
    }
    with ExitStack() as stack:
        if options.through_http:
            client = stack.enter_context(_served(benchmark, options))
            ways[HTTP] = lambda: benchmark.run_service(client)
        _warm_up(benchmark)
        rounds = list[dict[str, RunResult]]()
        for number in range(options.repeats):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            found = {way: ways[way]() for way in order}
            rounds.append({way: found[way] for way in ways})
    subjects = len(benchmark.subjects)
    requests = benchmark.requests.copy()
    checkpoints = requests.pop("(checkpoints)", 0)
    return {
        "subjects": subjects,
        "steps": benchmark.config.steps,
        "slots": benchmark.slots,
        "seconds between checkpoints": benchmark.checkpoint,
        "rounds": [{way: vars(run) for way, run in each.items()} for each in rounds],
        "subjects an hour": {
            way: statistics.median(3600 * subjects / each[way].seconds for each in rounds)
            for way in ways
        },
        "share lost": {
            way: _spread([1 - each[ENGINE].seconds / each[way].seconds for each in rounds])
            for way in ways
            if way != ENGINE
        },
        "share of CPU lost": _spread(
            [1 - each[ENGINE].cpu_seconds / each[WORKER].cpu_seconds for each in rounds]
        ),
        "seconds lost": _lost_seconds(rounds),
        "requests a subject": requests.total() / subjects,
        "checkpoints a subject": checkpoints / subjects,
    }


def _spread(shares: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(shares), "min": min(shares), "max": max(shares)}


def _lost_seconds(rounds: Sequence[dict[str, RunResult]]) -> dict[str, float]:
    """Return the parts of the time that a worker takes longer than the engine.

    They are means over the rounds, and not medians, so that they add up to the whole.
    """
    parts = Counter[str]()
    for each in rounds:
        engine, worker = each[ENGINE], each[WORKER]
        step_s = engine.stepping / engine.steps
        found = {
            "until the first step": worker.first_step - engine.first_step,
            "more steps, as slots were empty": (worker.steps - engine.steps) * step_s,
            "slower steps": worker.stepping - worker.steps * step_s,
            "between steps": worker.between - engine.between,
            "after the last step": worker.after - engine.after,
        }
        for name, seconds in found.items():
            parts[name] += seconds / len(rounds)  # type: ignore[assignment]
    return dict(parts)


def _warm_up(benchmark: ThroughputBenchmark) -> None:
    """Train one subject in both ways, because the first steps in a process are slow."""
    short = ThroughputBenchmark(
        benchmark.backbone,
        benchmark.subjects[:1],
        benchmark.config.changed(steps=3),
        benchmark.slots,
        benchmark.checkpoint,
        benchmark.folder,
    )
    short.run_engine()
    short.run_worker()


@contextmanager
def _served(benchmark: ThroughputBenchmark, options: argparse.Namespace) -> Iterator[Client]:
    """Run `dti serve` with a warm worker, which has loaded its model and trained subjects."""
    gpus = int(benchmark.backbone.device.type == "cuda")
    settings = LocalServiceSettings(
        store=str(benchmark.folder / "served"),
        port=free_port(),
        models=write_models(benchmark.folder / "models.json", slots=benchmark.slots, gpus=gpus),
        engines=False,
        cpus=2 * options.threads,  # a worker's torch gets half of them
        checkpoint_interval_s=benchmark.checkpoint,
    )
    with LocalService(settings) as service:
        service.wait_until_ready(300)
        client = Client(service.url, settings.store)
        client.upload(benchmark.subjects)
        warm_up = benchmark.config.changed(steps=3)
        client.wait_until_ended(client.submit(benchmark.subjects[: benchmark.slots], warm_up))
        yield client
        client.http.close()


@contextmanager
def _cpu(run: RunResult) -> Iterator[None]:
    began = sum(os.times()[:4])
    yield
    run.cpu_seconds = sum(os.times()[:4]) - began


def show(console: Console, found: dict[str, Any]) -> None:
    title = f"{found['subjects']} subjects of {found['steps']} steps in {found['slots']} slots"
    headings = ("subjects an hour", "share lost", "steps", "slots used", "s of CPU")
    table = Table("", *headings, title=title)
    for way, hourly in found["subjects an hour"].items():
        runs = [each[way] for each in found["rounds"]]
        steps = statistics.mean(each["steps"] for each in runs)
        used = statistics.mean(each["slots_used"] for each in runs) / max(1, steps) / found["slots"]
        cpu = statistics.mean(each["cpu_seconds"] for each in runs)
        inside = (f"{steps:.0f}", f"{used:.0%}", f"{cpu:.1f}") if steps else ("", "", "")
        share = found["share lost"].get(way)
        table.add_row(way, f"{hourly:.0f}", _text(share) if share else "", *inside)
    console.print(table)
    table = Table("time lost against the engine", "seconds", "share")
    mean = statistics.mean(each[WORKER]["seconds"] for each in found["rounds"])
    for name, seconds in found["seconds lost"].items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / mean:.1%}")
    console.print(table)
    console.print(
        f"{len(found['rounds'])} rounds. A worker loses {_text(found['share of CPU lost'])} of the "
        "CPU time, in which all threads count. For each subject: "
        f"{found['requests a subject']:.1f} requests to the store, "
        f"{found['checkpoints a subject']:.1f} checkpoints."
    )


def _text(share: dict[str, float]) -> str:
    return "{median:.1%} ({min:.1%} to {max:.1%})".format(**share)
