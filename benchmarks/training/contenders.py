"""Builds the contenders of `subjects`: ways to train over one model and the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.models.random_models import load_engine, load_pipeline
from benchmarks.training.plain_loop import PlainLoop
from dti_engine import devices
from dti_engine.backbones.checkpoint import ModelFolder
from dti_engine.backbones.interface import Backbone
from dti_engine.config import MAX_TRAINING_STEPS, TrainConfig
from dti_engine.images.decode import load_images
from dti_engine.subject import Subject
from dti_engine.text.captions import CAPTION_TEMPLATES
from dti_engine.training.autotune import (
    MAX_SLOTS,
    autotune_slots,
    ensure_slots_fit,
    full_trainer,
    measure_s,
)
from dti_engine.training.trainer import Trainer

NUM_IMAGES = 5
WORD = "a"  # an initializer that is one token in every vocabulary
_NEVER = MAX_TRAINING_STEPS


@dataclass
class Contender:
    """A way to train, ready for its next step."""

    name: str
    slots: int
    step: Callable[[], object]
    held_bytes: int  # between steps
    recompute: bool
    setup_s: float = 0.0  # before the first step of a subject


def make_contenders(
    checkpoint: ModelFolder,
    folder: Path,
    config: TrainConfig,
    *,
    slots: int | None,
    compiled: bool,
    **kind: Any,
) -> tuple[list[Contender], dict[str, Any]]:
    """Return the contenders that fit into memory, the plain loop first, and facts about them.

    Args:
        checkpoint: The model that all contenders load.
        folder: The place for the images that all contenders learn from.
        config: The training settings of all contenders.
        slots: The slots of the packed contender; None chooses them as `--slots auto` does.
        compiled: Whether to add a contender with a compiled denoiser.
        **kind: The device and dtype.
    """
    device, subject_images = kind["device"], draw_images(folder / "images", config.resolution)
    plain = plain_contender(checkpoint, subject_images, config, **kind)
    contenders = [plain] if plain else []
    used_before = devices.used_memory(device)
    backbone = load_engine(checkpoint, **kind)
    held_bytes = devices.used_memory(device) - used_before
    ensure_slots_fit(backbone, config, num_slots=1)
    facts: dict[str, Any] = {
        "a step waits for": find_wait(backbone, config),
        "positions of a caption": max_positions(backbone, config),
    }
    if slots is None:
        capacity = autotune_slots(backbone, config, num_subjects=MAX_SLOTS)
        slots, facts["slots"] = capacity.slots, f"{capacity.slots}: {capacity.reason}"
    same = subject_images[0].parent, config
    contenders.append(engine_contender("one slot", backbone, *same, 1, held_bytes))
    if slots > 1:
        contenders.append(engine_contender("packed", backbone, *same, slots, held_bytes))
    if compiled:
        backbone_compiled = load_engine(checkpoint, **kind)
        # Compiled and packed must recompute the same activations, or the ratio would show that too.
        backbone_compiled.recompute = backbone.recompute
        backbone_compiled.compile()
        contenders.append(engine_contender("compiled", backbone_compiled, *same, slots, held_bytes))
    return contenders, facts


def peak_bytes(contender: Contender, device: torch.device) -> int | None:
    """Return the peak memory of a step and of what the contender holds.

    None on a CPU, where the memory of contenders in one process cannot be told apart.
    """
    if device.type != "cuda":
        return None
    devices.reset_peak_memory(device)
    used_before = devices.used_memory(device)
    contender.step()
    torch.cuda.synchronize(device)
    return contender.held_bytes + devices.peak_memory(device) - used_before


def draw_images(folder: Path, side: int) -> list[Path]:
    random = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(NUM_IMAGES)]
    for path in paths:
        coarse = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return paths


def plain_contender(
    checkpoint: ModelFolder, subject_images: list[Path], config: TrainConfig, **kind: Any
) -> Contender | None:
    """Return the plain loop, or None if diffusers has no such script or it does not fit.

    The loop recomputes activations only where it does not fit otherwise, since that is slower.
    """
    device = kind["device"]
    if checkpoint.pipeline == "SanaPipeline":
        return None
    used_before = devices.used_memory(device)
    loop = PlainLoop(
        load_pipeline(checkpoint, **kind),
        subject_images,
        CAPTION_TEMPLATES[config.captions],
        initializer=WORD,
        resolution=config.resolution,
        batch_size=config.batch_size,
    )
    fits = can_step(loop.step, device)
    if not fits:
        loop.recompute()
        if not can_step(loop.step, device):
            return None
    held_bytes = devices.used_memory(device) - used_before
    return Contender("plain", 1, loop.step, held_bytes, recompute=not fits)


def can_step(step: Callable[[], object], device: torch.device) -> bool:
    try:
        step()
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
    else:
        return True
    devices.release_memory(device)
    return False


def engine_contender(
    name: str,
    backbone: Backbone,
    subject_images: Path,
    config: TrainConfig,
    slots: int,
    held_bytes: int,
) -> Contender:
    """Return the engine with a subject in every slot, none of which ever ends."""
    subjects = [
        Subject(f"subject-{seed}", load_images(subject_images), "<subject>", WORD, seed)
        for seed in range(slots)
    ]
    # A subject that ended would leave its slot empty, and the step would be faster.
    endless = config.changed(steps=_NEVER, patience=0)
    trainer = Trainer(backbone, endless, num_slots=slots)
    for subject in subjects:
        trainer.add(subject)
    trainer.remove(0)
    # Adding a subject is timed once the first ones have warmed the kernels and caches.
    setup_s = measure_s(backbone.device, lambda: trainer.add(subjects[0]))
    return Contender(name, slots, trainer.step, held_bytes, backbone.recompute, setup_s)


def max_positions(backbone: Backbone, config: TrainConfig) -> int:
    """Return the positions of a batch of the longest captions, in the encoder that has most."""
    words = [each.replace("{}", WORD) for each in CAPTION_TEMPLATES[config.captions]]
    return max(
        encoder.padded_length(max(len(encoder.wrap_ids(encoder.segment_ids(w))) for w in words))
        for encoder in backbone.text_encoders.values()
    )


def find_wait(backbone: Backbone, config: TrainConfig) -> str | None:
    """Return the operation for which the host waits in a step, or "nothing"; None on a CPU.

    A step that waits for the device cannot overlap the next one.
    """
    if backbone.device.type != "cuda":
        return None
    trainer = full_trainer(backbone, config.changed(eval_every=2), num_slots=1)
    trainer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "nothing"
