"""Subjects of the miniature's world, submitted to a ledger in memory."""

import hashlib
import io
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from dti_engine.backbones import load_backbone
from dti_engine.backbones.interface import Backbone
from dti_engine.recipes import miniature
from services.contracts.jobs import JobItem, JobRequest
from services.contracts.training import TrainingItem, TrainingJobSpec, batch_of
from services.ledger import uploads
from services.ledger.ledger import Ledger
from services.ledger.queries import ItemView, JobView, list_items, view_job
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.settings import LedgerSettings, WorkerTimeouts
from services.storage.memory import MemoryStore
from services.training.worker import TrainingWorker

LEASE = 4.0


@pytest.fixture(scope="session")
def miniature_backbone() -> Backbone:
    return load_backbone("miniature")


@dataclass
class Workshop:
    """A ledger, what was uploaded to it, and workers on threads of this process."""

    ledger: Ledger
    backbone: Backbone
    bundles: dict[str, bytes]
    tenant: str = "acme"
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def upload(self, data: bytes, tenant: str | None = None) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        uploads.write(self.ledger.store, tenant or self.tenant, sha256, io.BytesIO(data))
        return sha256

    def works(self, count: int, tenant: str | None = None) -> dict[str, TrainingItem]:
        names = list(self.bundles)
        return {
            f"{names[i % len(names)]}-{i}": TrainingItem(
                bundle=self.upload(self.bundles[names[i % len(names)]], tenant)
            )
            for i in range(count)
        }

    def submit(
        self,
        works: dict[str, TrainingItem],
        *,
        tenant: str | None = None,
        validation_images: int = 0,
        max_attempts: int = 4,
        **changes: object,
    ) -> str:
        config = miniature().changed(**({"steps": 6, "eval_every": 3} | changes))
        order = TrainingJobSpec(
            model="miniature",
            recipe="miniature",
            config=config.model_dump(mode="json"),
            validation_images=validation_images,
        )
        request = JobRequest(
            pool="miniature",
            batch=batch_of(config),
            items=tuple(
                JobItem(name=name, work=work.model_dump(mode="json"))
                for name, work in works.items()
            ),
            shared=order.model_dump(mode="json"),
            max_attempts=max_attempts,
        )
        return submit(self.ledger, tenant or self.tenant, secrets.token_hex(8), request).job

    def view(self, job: str, tenant: str | None = None) -> JobView:
        return view_job(self.ledger, tenant or self.tenant, job)

    def items(self, job: str, tenant: str | None = None) -> list[ItemView]:
        return list(list_items(self.ledger, tenant or self.tenant, job).items)

    def worker(self, num_slots: int = 2, **options: Any) -> TrainingWorker:
        options.setdefault(
            "timeouts", WorkerTimeouts(checkpoint_interval_s=0.2, progress_interval_s=0.05)
        )
        return TrainingWorker(
            self.ledger, "miniature", self.backbone, num_slots=num_slots, **options
        )

    @contextmanager
    def working(self, worker: TrainingWorker | None = None) -> Iterator[TrainingWorker]:
        """Run a worker and drain it at the end."""
        worker = worker or self.worker()
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        try:
            yield worker
        finally:
            worker.drain()
            thread.join(60)
        assert not thread.is_alive(), "the worker does not return"

    def wait_for(self, what: Callable[[], bool], seconds: float = 90) -> None:
        """Wait, while a supervisor looks every now and then."""
        supervisor, end = Recovery(self.ledger), time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "it did not come about"
            supervisor.recover()
            time.sleep(0.05)

    def wait_until_ended(self, *jobs: str, tenant: str | None = None) -> None:
        self.wait_for(lambda: all(self.view(job, tenant).state.ended for job in jobs))


@pytest.fixture
def workshop(miniature_backbone: Backbone, bundles: dict[str, bytes]) -> Workshop:
    settings = LedgerSettings(lease_s=LEASE, poll_interval_s=0.05)
    return Workshop(Ledger.open(MemoryStore(), settings), miniature_backbone, bundles)
