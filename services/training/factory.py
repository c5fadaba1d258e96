"""A training worker from plain values, which can be sent to another machine."""

import time

from pydantic import Field

from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.quality.token_scorers import find_judge
from services import logs
from services.contracts.jobs import Label, WireModel
from services.contracts.models import ServedModel
from services.ledger.ledger import Ledger
from services.settings import LedgerSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.training.metrics import WorkerMetrics
from services.training.session import WorkerTimeouts
from services.training.worker import TrainingWorker, Watchdog

log = logs.logger(__name__)


class WorkerSpec(WireModel):
    """What a worker is told. Credentials are not in it: they are in its environment."""

    store: str = Field(description="URL")
    pool: Label
    model: ServedModel
    lease: float = Field(default=60, gt=0, description="seconds; the same for the whole service")
    look: float = Field(default=1, gt=0, description="seconds between looks for work")
    checkpoint: float = Field(default=30, gt=0, description="seconds between two of a subject")
    loading: float = Field(default=3600, gt=0, description="seconds in which its model has come")
    stuck: float = Field(
        default=600, gt=0, description="seconds until a device that does not come back is given up"
    )
    threads: int | None = Field(default=None, ge=1, description="of torch on a CPU; None: its own")


def open_worker(plan: WorkerSpec) -> TrainingWorker:
    """Load the model and open the store. A model that does not come ends the process.

    Raises: ModelLoadError, ConfigurationError, SettingsError, StorageError.
    """
    started = time.monotonic()
    with Watchdog(plan.loading, lambda: log.error("the model does not load: this process ends")):
        return _opened(plan, started)


def _opened(plan: WorkerSpec, started: float) -> TrainingWorker:
    if plan.threads:
        import torch

        torch.set_num_threads(plan.threads)
    model = plan.model
    device = find_device(model.device)
    backbone = load_backbone(model.weights, device=device, dtype=find_dtype(model.dtype, device))
    judge = find_judge(model.weights, model.scorer, device=device)
    settings = LedgerSettings(lease=plan.lease, look=plan.look)
    return TrainingWorker(
        Ledger.on(InstrumentedStore(open_store(plan.store)), settings),
        plan.pool,
        backbone,
        judge,
        num_slots=model.slots,
        patience=WorkerTimeouts(checkpoint=plan.checkpoint, stuck=plan.stuck),
        events=WorkerMetrics(plan.pool, started),
    )
