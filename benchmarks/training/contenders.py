"""Ways to train a subject, each ready for its next step, over one model and the same images."""

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
from dti_engine.config import TrainConfig
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
WORD = "a"  # one token of every vocabulary, to start from
_NEVER = 10**9


@dataclass
class Contender:
    """A way to train, ready for its next step."""

    name: str
    slots: int
    step: Callable[[], object]
    standing: int  # bytes that it holds between steps
    recompute: bool
    before: float = 0.0  # seconds before the first step of a subject


def contenders(
    checkpoint: ModelFolder,
    folder: Path,
    config: TrainConfig,
    *,
    slots: int | None,
    compiled: bool,
    **kind: Any,
) -> tuple[list[Contender], dict[str, Any]]:
    """Those that can run, the plain loop first if it can; and facts about them.

    folder: for images. slots: of the packed one; None: as `--slots auto`. compiled: whether to
    have that as well. kind: device and dtype.
    """
    device, subject_images = kind["device"], draw_images(folder / "images", config.resolution)
    found = [each for each in [plain(checkpoint, subject_images, config, **kind)] if each]
    held = devices.used_memory(device)
    backbone = load_engine(checkpoint, **kind)
    standing = devices.used_memory(device) - held
    ensure_slots_fit(backbone, config, num_slots=1)
    facts: dict[str, Any] = {
        "a step waits for": waits(backbone, config),
        "positions of a caption": positions(backbone, config),
    }
    if slots is None:
        capacity = autotune_slots(backbone, config, num_subjects=MAX_SLOTS)
        slots, facts["slots"] = capacity.slots, f"{capacity.slots}: {capacity.reason}"
    shown = subject_images[0].parent, config
    found.append(engine("one slot", backbone, *shown, 1, standing))
    if slots > 1:
        found.append(engine("packed", backbone, *shown, slots, standing))
    if compiled:
        backbone_compiled = load_engine(checkpoint, **kind)
        backbone_compiled.recompute = backbone.recompute
        backbone_compiled.compile()
        found.append(engine("compiled", backbone_compiled, *shown, slots, standing))
    return found, facts


def most_in_use(contender: Contender, device: torch.device) -> int | None:
    """Bytes; None on a CPU, where a process cannot tell its contenders apart."""
    if device.type != "cuda":
        return None
    devices.reset_peak_memory(device)
    held = devices.used_memory(device)
    contender.step()
    torch.cuda.synchronize(device)
    return contender.standing + devices.peak_memory(device) - held


def draw_images(folder: Path, side: int) -> list[Path]:
    random = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(NUM_IMAGES)]
    for path in paths:
        coarse = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return paths


def plain(
    checkpoint: ModelFolder, subject_images: list[Path], config: TrainConfig, **kind: Any
) -> Contender | None:
    """None if diffusers has no such script, or memory runs out even when it recomputes."""
    device = kind["device"]
    if checkpoint.pipeline == "SanaPipeline":
        return None
    held = devices.used_memory(device)
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
    return Contender("plain", 1, loop.step, devices.used_memory(device) - held, recompute=not fits)


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


def engine(
    name: str,
    backbone: Backbone,
    subject_images: Path,
    config: TrainConfig,
    slots: int,
    standing: int,
) -> Contender:
    """With a subject in every slot, none of which ever ends."""
    subjects = [
        Subject(f"subject-{seed}", load_images(subject_images), "<subject>", WORD, seed)
        for seed in range(slots)
    ]
    endless = config.changed(steps=_NEVER, patience=0)
    trainer = Trainer(backbone, endless, num_slots=slots)
    for subject in subjects:
        trainer.add(subject)
    trainer.remove(0)
    before = measure_s(backbone.device, lambda: trainer.add(subjects[0]))  # by now all is warm
    return Contender(name, slots, trainer.step, standing, backbone.recompute, before)


def positions(backbone: Backbone, config: TrainConfig) -> int:
    """As many as a batch of the longest captions has, in the encoder that takes most."""
    words = [each.replace("{}", WORD) for each in CAPTION_TEMPLATES[config.captions]]
    return max(
        encoder.padded_length(max(len(encoder.wrap_ids(encoder.segment_ids(w))) for w in words))
        for encoder in backbone.text_encoders.values()
    )


def waits(backbone: Backbone, config: TrainConfig) -> str | None:
    """What made the host wait in a step, if anything did; None on a CPU, where it cannot tell."""
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
