"""The loop that every stage of the recipe runs: AdamW, warm-up, constant rate, linear decay, averaged weights, resume.

It knows nothing of what is trained. `loss_of(step)` must draw its batch as a pure function of the step.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Schedule:
    """`steps` in all; the rate rises over `warmup` steps and falls to zero over the last `decay_share` of them."""

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
    name: str,
    model: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    work: Path,
    *,
    on_step: Callable[[str, int, int, dict[str, float]], None],
) -> nn.Module:
    """Train `model` in place and leave the averaged weights in it. Resumes from `work/{name}.pt` if it is there."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.lr, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
    )
    averaged = [p.detach().clone() for p in model.parameters()]
    saved, start, seconds = work / f"{name}.pt", 0, 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        averaged = state["averaged"]
        start, seconds = state["step"], state["seconds"]
    began = time.monotonic() - seconds
    for step in range(start, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step)
        loss, figures = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        weight = min(schedule.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(averaged, [p.detach() for p in model.parameters()], 1.0 - weight)
        on_step(name, step + 1, schedule.steps, {"loss": float(loss.detach()), **figures})
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            _save(saved, model, optimizer, averaged, step + 1, time.monotonic() - began)
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), averaged, strict=True):
            parameter.copy_(mean)
    return model.eval()


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, averaged: list[Tensor], step: int,
          seconds: float) -> None:  # fmt: skip
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "averaged": averaged,
        "step": step,
        "seconds": seconds,
    }
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.rename(path)
    path.with_suffix(".json").write_text(json.dumps({"step": step, "seconds": round(seconds, 1)}))
