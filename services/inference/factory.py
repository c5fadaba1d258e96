"""An engine from its plan."""

import importlib
import time
from dataclasses import replace
from typing import Any

from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from services import logs
from services.errors import SettingsError
from services.inference.engine import Check, Engine
from services.inference.metrics import EngineMetrics
from services.inference.scheduler.calibration import MOST, find_cap
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings
from services.inference.spec import EngineSpec
from services.inference.tokens.blends import BlendCache, PlaceholderResolver
from services.inference.tokens.cache import TokenCache
from services.inference.tokens.loader import ModelSignature
from services.ledger.ledger import Ledger
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store

S3_DEFAULTS = {"deadline_s": 10.0, "read_timeout_s": 5.0}
"""Shorter timeouts than those of other processes: people wait for images, and tokens are small."""

_COMPILING = 1200.0
"""Seconds without any progress, in which a step may be the first of its shape, and is compiled."""

log = logs.logger(__name__)


def open_engine(plan: EngineSpec) -> Engine:
    """Load the model, open the store, and begin to generate.

    Raises: ModelLoadError, ConfigurationError, SettingsError, StorageError.
    """
    began = time.monotonic()
    model, generation = plan.model, plan.model.generation
    check = _find_check(generation.safety_checker)
    if plan.threads:
        import torch

        torch.set_num_threads(plan.threads)
    log.info("model is being loaded", model=plan.name)
    device = find_device(model.device)
    backbone = load_backbone(model.weights, device=device, dtype=find_dtype(model.dtype, device))
    if generation.compile:
        backbone.compile()
    store = InstrumentedStore(open_store(plan.store, **S3_DEFAULTS))
    cache = TokenCache(Ledger.open(store), ModelSignature.of(backbone))
    shapes = _shapes(generation.batch_size or MOST) if generation.compile else ()
    cap = generation.batch_size or find_cap(backbone, shapes=shapes)
    settings = BatchSchedulerSettings(
        cap, generation.queue_size, joining=plan.joining, shapes=shapes
    )
    if generation.compile:
        settings = replace(settings, patience=_COMPILING)
    batcher = BatchScheduler(backbone, settings, EngineMetrics())
    batcher.start()
    seconds = round(time.monotonic() - began, 1)
    log.info("engine is ready", model=plan.name, seconds=seconds, images=cap)
    return Engine(backbone, PlaceholderResolver(cache, BlendCache(cache)), batcher, check)


def _shapes(images: int) -> tuple[int, ...]:
    """Powers of two, up to all images guided: each is compiled once."""
    return tuple(2**n for n in range((2 * images - 1).bit_length() + 1))


def _find_check(name: str | None) -> Check:
    """Raises: SettingsError."""
    if name is None:
        return lambda image: None
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"generating.safety {name!r} cannot be loaded: {error}") from error
    if not callable(found):
        raise SettingsError(f"generating.safety {name!r} is no function")
    check: Any = found
    return check
