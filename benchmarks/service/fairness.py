"""A small job beside another tenant's large job, against the small job alone.

This is the part `fairness` of `benchmarks.service`.
"""

import argparse
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.service.subjects import POOL, PackedSubject, pack_subjects, submit_to_ledger
from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.devices import find_device, find_dtype
from dti_engine.recipes import recipe
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.settings import WorkerTimeouts
from services.storage.open import open_store
from services.training.metrics import WorkerMetrics
from services.training.worker import TrainingWorker

LARGE, SMALL = "large", "small"
_LARGE_PER_SMALL = 10  # ratio of the numbers of subjects


class TenantCounts(WorkerMetrics):
    """Counts the subjects of each tenant that a worker has started and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.ended = Counter[str](), Counter[str]()
        self.changed = threading.Condition()

    def subject_started(self, attempt: Attempt, resumed_at: int) -> None:
        self._count(self.started, attempt)

    def attempt_ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        if how == "succeeded":
            self._count(self.ended, attempt)

    def _count(self, counter: Counter[str], attempt: Attempt) -> None:
        with self.changed:
            counter[attempt.keys.tenant] += 1
            self.changed.notify_all()

    def wait_for(self, counter: Counter[str], tenant: str, count: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: counter[tenant] >= count, 3600):
                raise RuntimeError(f"{tenant} has not got to {count} within an hour")


@dataclass
class FairnessBenchmark:
    """Runs the small job on a new worker and a new store in a folder each time."""

    backbone: Backbone
    subjects: Sequence[PackedSubject]
    config: TrainConfig
    slots: int
    small: int
    folder: Path
    rounds: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    def round(self) -> None:
        """Run the small job alone, then beside the large job.

        The small job is submitted at another moment of the large one in each round, so that no
        round is measured only right after a subject has ended.
        """
        with self._working() as (ledger, counts):
            alone = self._small_job(ledger, counts)
        with self._working() as (ledger, counts):
            submit_to_ledger(ledger, self.subjects, self.config, LARGE)
            counts.wait_for(counts.started, LARGE, self.slots)
            time.sleep(alone * (len(self.rounds) % 4) / 4)
            beside = self._small_job(ledger, counts)
        self.rounds.append({"alone": alone, "beside": beside})

    def _small_job(self, ledger: Ledger, counts: TenantCounts) -> float:
        """Return the seconds of the small job from its submission to its last commit."""
        began = time.perf_counter()
        submit_to_ledger(ledger, self.subjects[: self.small], self.config, SMALL)
        counts.wait_for(counts.ended, SMALL, self.small)
        return time.perf_counter() - began

    @contextmanager
    def _working(self) -> Iterator[tuple[Ledger, TenantCounts]]:
        number = len(list(self.folder.glob("store-*")))
        ledger = Ledger.open(open_store(str(self.folder / f"store-{number}")))
        counts = TenantCounts()
        worker = TrainingWorker(
            ledger,
            POOL,
            self.backbone,
            num_slots=self.slots,
            timeouts=WorkerTimeouts(),
            metrics=counts,
        )
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield ledger, counts
        finally:
            worker.drain()
            thread.join()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    device = find_device("auto")
    benchmark = FairnessBenchmark(
        load_backbone("miniature", device=device, dtype=find_dtype("auto", device)),
        pack_subjects(_LARGE_PER_SMALL * options.small, folder / "photos"),
        recipe("miniature").changed(steps=options.steps),
        options.slots,
        options.small,
        folder,
    )
    for _ in range(options.repeats):
        benchmark.round()
    ratios = [each["beside"] / each["alone"] for each in benchmark.rounds]
    return {
        "subjects": {SMALL: options.small, LARGE: _LARGE_PER_SMALL * options.small},
        "steps": options.steps,
        "slots": options.slots,
        "rounds": benchmark.rounds,
        "times as long": {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
        },
    }


def show(console: Console, found: dict[str, Any]) -> None:
    subjects = found["subjects"]
    table = Table(
        "",
        "alone",
        "beside",
        "times as long",
        title=f"{subjects[SMALL]} subjects of {found['steps']} steps beside {subjects[LARGE]} of "
        f"another tenant, in {found['slots']} slots",
    )
    for number, each in enumerate(found["rounds"]):
        ratio = each["beside"] / each["alone"]
        table.add_row(
            str(number + 1), f"{each['alone']:.1f} s", f"{each['beside']:.1f} s", f"{ratio:.2f}"
        )
    console.print(table)
    spread = found["times as long"]
    console.print(
        f"A small job takes {spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f}) "
        "times as long as alone."
    )
