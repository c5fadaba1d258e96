"""Builds a training worker from its specification."""

import threading
import time

from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from dti_engine.quality.token_scorers import find_scorer
from services import logs
from services.ledger.ledger import Ledger
from services.storage.instrumented import InstrumentedStore
from services.storage.interface import Store
from services.storage.open import open_store
from services.storage.probe_record import wait_until_probed
from services.training.metrics import WorkerMetrics
from services.training.pool import WorkerSpec
from services.training.worker import TrainingWorker, Watchdog

log = logs.logger(__name__)


def open_worker(spec: WorkerSpec) -> TrainingWorker:
    """Open the store, load the model, and return the worker.

    It waits for a store that does not answer, without a limit. A model that does not load in time
    ends the process: a download may hang for ever.

    Raises: ModelLoadError, ConfigurationError, SettingsError, StorageError.
    """
    started = time.monotonic()
    store = open_store(spec.store)
    wait_until_probed(store, threading.Event())
    with Watchdog(spec.load_timeout_s, lambda: log.error("model does not load: this process ends")):
        return _open(spec, store, started)


def _open(spec: WorkerSpec, store: Store, started: float) -> TrainingWorker:
    if spec.threads:
        import torch

        torch.set_num_threads(spec.threads)
    model = spec.model
    device = find_device(model.device)
    backbone = load_backbone(model.weights, device=device, dtype=find_dtype(model.dtype, device))
    scorer = find_scorer(model.weights, model.scorer, device=device)
    return TrainingWorker(
        Ledger.open(InstrumentedStore(store), spec),
        spec.pool,
        backbone,
        scorer,
        num_slots=model.slots,
        timeouts=spec,
        metrics=WorkerMetrics(started),
    )
