"""Builds a training worker from its specification."""

import time

from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.quality.token_scorers import find_scorer
from services import logs
from services.ledger.ledger import Ledger
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.training.metrics import WorkerMetrics
from services.training.spec import WorkerSpec
from services.training.worker import TrainingWorker, Watchdog

log = logs.logger(__name__)


def open_worker(spec: WorkerSpec) -> TrainingWorker:
    """Load the model, open the store, and return the worker.

    A model that does not load in time ends the process: a download may hang for ever.

    Raises: ModelLoadError, ConfigurationError, SettingsError, StorageError.
    """
    started = time.monotonic()
    with Watchdog(spec.load_timeout_s, lambda: log.error("model does not load: this process ends")):
        return _open(spec, started)


def _open(spec: WorkerSpec, started: float) -> TrainingWorker:
    if spec.threads:
        import torch

        torch.set_num_threads(spec.threads)
    model = spec.model
    device = find_device(model.device)
    backbone = load_backbone(model.weights, device=device, dtype=find_dtype(model.dtype, device))
    scorer = find_scorer(model.weights, model.scorer, device=device)
    return TrainingWorker(
        Ledger.open(InstrumentedStore(open_store(spec.store)), spec),
        spec.pool,
        backbone,
        scorer,
        num_slots=model.slots,
        timeouts=spec,
        metrics=WorkerMetrics(started),
    )
