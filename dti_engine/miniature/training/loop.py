"""The training loop of every stage of the recipe, and the work folder that makes it resumable.

AdamW with warm-up, constant rate and linear decay, averaged weights, and checkpoints. The loop
knows nothing of what it trains. A batch must be a pure function of the step.

The work folder has the results and times of all stages so far, and the drawn images in shards, so
that every stage reads the same images without redrawing. Files are written atomically.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dti_engine.errors import ConfigurationError
from dti_engine.miniature.progress import Figures, Report
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.scenes import example

StageProgress = dict[str, float]  # "step": steps done; "seconds": the time they took


def atomic_save(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file at `path` by `write`, atomically."""
    # The name is not unique, as one process at a time writes a file of a work folder.
    unfinished = path.with_name(f"unfinished-{path.name}")
    write(unfinished)
    unfinished.replace(path)


def stored_tensor(path: Path, length: int, make: Callable[[], Tensor]) -> Tensor:
    """Return the tensor at `path` if it is there and has this length; else make and save it."""
    if path.exists():
        found: Tensor = torch.load(path, weights_only=True, mmap=True)
        if len(found) == length:
            return found
    began = time.monotonic()
    tensor = make()
    atomic_save(path, lambda unfinished: torch.save(tensor, unfinished))
    record_progress(path.parent, path.stem, step=length, seconds=time.monotonic() - began)
    return tensor


def record_progress(work: Path, stage: str, *, step: int, seconds: float) -> None:
    """Record the progress of a stage, and the time that it took in all its runs."""
    text = json.dumps({"step": step, "seconds": round(seconds, 1)})
    atomic_save(work / f"{stage}.json", lambda unfinished: unfinished.write_text(text))


def read_progress(work: Path, stage: str) -> StageProgress | None:
    """Return the recorded progress of a stage, or None if it has not begun."""
    path = work / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else None


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of a step, and figures to show."""

    loss: Tensor
    figures: Figures


LossOf = Callable[[int], StepLoss]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of `steps` steps with warm-up and decay.

    The rate rises over `warmup` steps and falls to zero over the last `decay_share` of all steps.
    """

    steps: int
    lr: float
    warmup: int = 100
    decay_share: float = 0.25
    weight_decay: float = 0.01
    ema: float = 0.998
    save_every: int = 250

    def lr_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay_share * self.steps))
        return self.lr * rise * fall


def fit(
    name: str, model: nn.Module, loss_of: LossOf, schedule: Schedule, work: Path, *, report: Report
) -> None:
    """Train `model` in place and leave the averaged weights in it, in evaluation mode.

    Resumes from `work/{name}.pt` if it exists, with the same numbers as an uninterrupted run.

    Raises:
        ConfigurationError: The checkpoint is of another model.
    """
    run = _Run(model, schedule)
    checkpoint = work / f"{name}.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    began = time.monotonic() - run.seconds
    while run.step < schedule.steps:
        step_loss = run.advance(loss_of)
        figures = {"loss": float(step_loss.loss.detach()), **step_loss.figures}
        report(name, run.step, schedule.steps, figures)
        # The last step too: a finished stage is loaded by a later run like an unfinished one.
        if run.step % schedule.save_every == 0 or run.step == schedule.steps:
            run.seconds = time.monotonic() - began
            run.save(checkpoint)
            record_progress(work, name, step=run.step, seconds=run.seconds)
    run.apply_average()


class _Run:
    """A model in training, with all the state of its checkpoint."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        self._model, self._schedule = model, schedule
        self._optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=schedule.lr,
            betas=(0.9, 0.99),
            weight_decay=schedule.weight_decay,
        )
        self._averaged = [parameter.detach().clone() for parameter in model.parameters()]
        self.step = 0
        self.seconds = 0.0

    def advance(self, loss_of: LossOf) -> StepLoss:
        """Take one step."""
        step, schedule = self.step, self._schedule
        # Random operations inside the model, such as dropout, depend on the step alone, so that a
        # resumed run draws the same.
        torch.manual_seed(step)
        for group in self._optimizer.param_groups:
            group["lr"] = schedule.lr_at(step)
        step_loss = loss_of(step)
        self._optimizer.zero_grad(set_to_none=True)
        step_loss.loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        # A shorter average at first, so that the initial weights are soon forgotten.
        weight = 1.0 - min(schedule.ema, (step + 1) / (step + 10))
        for mean, parameter in zip(self._averaged, self._model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), weight)
        self.step += 1
        return step_loss

    @torch.no_grad()
    def apply_average(self) -> None:
        for parameter, mean in zip(self._model.parameters(), self._averaged, strict=True):
            parameter.copy_(mean)
        self._model.eval()

    def save(self, path: Path) -> None:
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "averaged": self._averaged,
            "step": self.step,
            "seconds": self.seconds,
        }
        atomic_save(path, lambda unfinished: torch.save(state, unfinished))

    def load(self, path: Path) -> None:
        """Restore a checkpoint.

        Raises:
            ConfigurationError: The checkpoint is of another model.
        """
        state = torch.load(path, weights_only=True, map_location="cpu")
        try:
            self._model.load_state_dict(state["model"])
        except RuntimeError as cause:
            raise ConfigurationError(
                f"{path} holds a model of another size; give each size a work folder of its own"
            ) from cause
        self._optimizer.load_state_dict(state["optimizer"])
        self._averaged = [
            saved.to(mean.device)
            for saved, mean in zip(state["averaged"], self._averaged, strict=True)
        ]
        self.step, self.seconds = state["step"], state["seconds"]


SHARD = 4096


def images(
    work: Path, count: int, *, on_shard: Callable[[int, int], None] = lambda done, total: None
) -> np.ndarray:
    """Return (count, SIZE, SIZE, 3) uint8; image i shows `example(i)`. Draw what `work` lacks.

    on_shard gets the number of shards drawn and in total.
    """
    folder = work / "images"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, SHARD)
    shards = {folder / f"{i:04d}.npy": (s, min(s + SHARD, count)) for i, s in enumerate(starts)}
    missing = {path: ends for path, ends in shards.items() if not _holds(path, *ends)}
    earlier = read_progress(work, "images") or {"seconds": 0.0}
    began = time.monotonic() - earlier["seconds"]
    with ProcessPoolExecutor() as pool:
        # One shard is drawn faster here than by a process that has to start first.
        draw_all = pool.map if len(missing) > 1 else map
        for done, _ in enumerate(draw_all(_draw_shard, missing, missing.values()), start=1):
            num_drawn = count - SHARD * (len(missing) - done)
            record_progress(work, "images", step=num_drawn, seconds=time.monotonic() - began)
            on_shard(done, len(missing))
    # Mapped, not read: the images of a large recipe need not fit into memory twice.
    loaded = [
        np.load(path, mmap_mode="r")[: stop - start] for path, (start, stop) in shards.items()
    ]
    return np.concatenate(loaded)


def _holds(path: Path, start: int, stop: int) -> bool:
    return path.exists() and len(np.load(path, mmap_mode="r")) >= stop - start


def _draw_shard(path: Path, ends: tuple[int, int]) -> None:
    drawn = np.stack([np.asarray(draw(example(seed).scene)) for seed in range(*ends)])
    atomic_save(path, lambda unfinished: np.save(unfinished, drawn))


def batch_indices(step: int, batch_size: int, size: int, *, stream: int) -> np.ndarray:
    """Return (batch_size,) indices below `size`, as a pure function of (stream, step).

    A resumed run therefore draws the same batches.
    """
    return np.random.default_rng((stream, step)).integers(0, size, batch_size)
