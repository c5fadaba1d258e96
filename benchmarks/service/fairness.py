"""How long a small job takes beside a large one of another tenant, against alone."""

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

from benchmarks.service.subjects import POOL, Parcel, pack_subjects, submit_to_ledger
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
_TIMES = 10  # as many subjects in the large job


class Watch(WorkerMetrics):
    """Of a worker: who has ended, and how many subjects of whom were seated."""

    def __init__(self) -> None:
        super().__init__()
        self.seated_by, self.ended_by = Counter[str](), Counter[str]()
        self.changed = threading.Condition()

    def subject_started(self, attempt: Attempt, resumed_at: int) -> None:
        self._count(self.seated_by, attempt)

    def attempt_ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
        if how == "succeeded":
            self._count(self.ended_by, attempt)

    def _count(self, counter: Counter[str], attempt: Attempt) -> None:
        with self.changed:
            counter[attempt.keys.tenant] += 1
            self.changed.notify_all()

    def wait_for(self, counter: Counter[str], tenant: str, count: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: counter[tenant] >= count, 3600):
                raise RuntimeError(f"{tenant} has not got to {count} within an hour")


@dataclass
class Bench:
    """A worker of so many slots over a store in a folder."""

    backbone: Backbone
    parcels: Sequence[Parcel]
    config: TrainConfig
    slots: int
    small: int
    folder: Path
    rounds: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    def round(self) -> None:
        """The small job alone, then beside the large one at a moment that differs by round."""
        with self._working() as (ledger, watch):
            alone = self._small_job(ledger, watch)
        with self._working() as (ledger, watch):
            submit_to_ledger(ledger, self.parcels, self.config, LARGE)
            watch.wait_for(watch.seated_by, LARGE, self.slots)
            time.sleep(alone * (len(self.rounds) % 4) / 4)
            beside = self._small_job(ledger, watch)
        self.rounds.append({"alone": alone, "beside": beside})

    def _small_job(self, ledger: Ledger, watch: Watch) -> float:
        """Seconds from its submission to its last commit."""
        began = time.perf_counter()
        submit_to_ledger(ledger, self.parcels[: self.small], self.config, SMALL)
        watch.wait_for(watch.ended_by, SMALL, self.small)
        return time.perf_counter() - began

    @contextmanager
    def _working(self) -> Iterator[tuple[Ledger, Watch]]:
        number = len(list(self.folder.glob("store-*")))
        ledger = Ledger.open(open_store(str(self.folder / f"store-{number}")))
        watch = Watch()
        worker = TrainingWorker(
            ledger,
            POOL,
            self.backbone,
            num_slots=self.slots,
            timeouts=WorkerTimeouts(),
            metrics=watch,
        )
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield ledger, watch
        finally:
            worker.drain()
            thread.join()


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    device = find_device("auto")
    bench = Bench(
        load_backbone("miniature", device=device, dtype=find_dtype("auto", device)),
        pack_subjects(_TIMES * options.small, folder / "photos"),
        recipe("miniature").changed(steps=options.steps),
        options.slots,
        options.small,
        folder,
    )
    for _ in range(options.repeats):
        bench.round()
    ratios = [each["beside"] / each["alone"] for each in bench.rounds]
    return {
        "subjects": {SMALL: options.small, LARGE: _TIMES * options.small},
        "steps": options.steps,
        "slots": options.slots,
        "rounds": bench.rounds,
        "times as long": {
            "median": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
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
    said = found["times as long"]
    console.print(
        f"A small job takes {said['median']:.2f} ({said['least']:.2f} to {said['most']:.2f}) "
        "times as long as alone."
    )
