"""Creates an engine from its specification."""

import importlib
import threading
import time
from dataclasses import replace
from typing import Any, cast

from dti_engine.backbones import load_backbone
from dti_engine.devices import find_device, find_dtype
from services import logs
from services.errors import SettingsError
from services.inference.engine import Engine, SafetyChecker
from services.inference.scheduler.calibration import MAX_BATCH_SIZE, calibrate_batch_size
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings
from services.inference.spec import EngineSpec
from services.inference.tokens.blends import BlendCache, PlaceholderResolver
from services.inference.tokens.cache import TokenCache
from services.inference.tokens.loader import ModelSignature
from services.ledger.ledger import Ledger
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.storage.probe_record import wait_until_probed

S3_DEFAULTS = {"deadline_s": 10.0, "read_timeout_s": 5.0}
"""Shorter timeouts than those of other processes: people wait for images, and tokens are small."""

_COMPILE_WATCHDOG_TIMEOUT_S = 1200.0
"""The watchdog timeout of a compiled model, whose first step of each shape takes minutes."""

log = logs.logger(__name__)


def open_engine(spec: EngineSpec) -> Engine:
    """Open the store, load the model, start the scheduler, and return the engine.

    It waits for a store that does not answer, without a limit.

    Raises:
        ModelLoadError: The weights cannot be loaded.
        ConfigurationError, SettingsError: A setting is invalid.
        StorageError: The store cannot be opened.
    """
    began = time.monotonic()
    model, generation = spec.model, spec.model.generation
    # First, because a mistake in these should not cost the time to load the model.
    safety_checker = _find_safety_checker(generation.safety_checker)
    opened = open_store(spec.store, **S3_DEFAULTS)
    wait_until_probed(opened, threading.Event())
    if spec.threads:
        import torch

        torch.set_num_threads(spec.threads)
    log.info("loading model", model=spec.name)
    device = find_device(model.device)
    backbone = load_backbone(model.weights, device=device, dtype=find_dtype(model.dtype, device))
    if generation.compile:
        backbone.compile()
    store = InstrumentedStore(opened)
    tokens = TokenCache(Ledger.open(store), ModelSignature.of(backbone))
    tokens.forget_in_background()
    shapes = _compiled_shapes(generation.batch_size or MAX_BATCH_SIZE) if generation.compile else ()
    batch_size = generation.batch_size or calibrate_batch_size(backbone, shapes=shapes)
    settings = BatchSchedulerSettings(
        batch_size, generation.queue_size, continuous=spec.continuous, shapes=shapes
    )
    if generation.compile:
        settings = replace(settings, watchdog_timeout_s=_COMPILE_WATCHDOG_TIMEOUT_S)
    scheduler = BatchScheduler(backbone, settings)
    scheduler.start()
    log.info(
        "engine is ready",
        model=spec.name,
        start_s=round(time.monotonic() - began, 1),
        batch_size=batch_size,
    )
    resolver = PlaceholderResolver(tokens, BlendCache(tokens))
    return Engine(backbone, resolver, scheduler, safety_checker)


def _compiled_shapes(batch_size: int) -> tuple[int, ...]:
    """Return the row counts to compile for: powers of two, up to a full batch with guidance."""
    return tuple(2**n for n in range((2 * batch_size - 1).bit_length() + 1))


def _find_safety_checker(name: str | None) -> SafetyChecker:
    """Return the function named MODULE:FUNCTION. Raise SettingsError if there is none."""
    if name is None:
        return lambda image: None
    module, _, attribute = name.partition(":")
    try:
        checker: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"generation.safety_checker {name!r} cannot be loaded: {error}"
        ) from error
    if not callable(checker):
        raise SettingsError(f"generation.safety_checker {name!r} is not a function")
    return cast(SafetyChecker, checker)
