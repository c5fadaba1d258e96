"""The learning rate schedule and early stopping of one subject. Loads no torch."""

import math
from collections.abc import Sequence

from dti_engine.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of the step that follows `step` steps; an angle in radians for dti.

    constant  lr
    cosine    lr (1 + cos(pi step / steps)) / 2, which is lr at first and falls to 0 at the end

    Source: Loshchilov and Hutter 2017, eq. 5, without restarts.
    """
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2


def has_converged(fixed_losses: Sequence[float], config: TrainConfig) -> bool:
    """Return whether early stopping applies: no improvement in the last `patience` evaluations.

    fixed_losses: the losses on the fixed batch before training and after every `eval_every` steps.
    The loss of a training step would tell nothing: its images, times and noise are new each step.
    An improvement is a new lowest loss that is below the previous lowest by more than
    `min_improvement` times the whole decrease so far.

    Source: patience as in Prechelt 1998, "Early Stopping - But When?"; the fixed batch as in
    Voronov et al. 2023, "Is This Loss Informative?" (DVAR).
    """
    # There must be a loss before the last `patience` evaluations to compare them with.
    if not 0 < config.patience < len(fixed_losses):
        return False
    before, recent = fixed_losses[: -config.patience], fixed_losses[-config.patience :]
    lowest = min(before)
    # Relative to the decrease, not to the loss: most of a loss is noise that no token can predict,
    # and how much of it depends on the model and on the times in the fixed batch.
    return lowest - min(recent) <= config.min_improvement * (fixed_losses[0] - lowest)
