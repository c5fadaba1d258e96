"""When more steps of a subject would change little, by its loss on a fixed batch. Loads no torch.

The loss of a step tells nothing of that: it is of other images, times and noise at every step.

How the learning rate changes over the steps of a subject. Loads no torch.
"""

import math
from collections.abc import Sequence

from dti_engine.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """lr of the step that follows `step` steps; for dti an angle, to rounding, in radians.

    constant  lr
    cosine    lr (1 + cos(pi step / steps)) / 2, which is lr at first and falls to 0 at the end

    Source: Loshchilov and Hutter 2017, eq. 5, without restarts.
    """
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2


def has_converged(looks: Sequence[float], config: TrainConfig) -> bool:
    """Whether the last `patience` looks have brought no gain.

    looks: the losses before training and after every `eval_every` steps. A gain is a lowest loss
    that lies under the lowest before by more than `min_improvement` of the whole fall so far.

    Source: patience as for early stopping, Prechelt 1998, on the batch of Voronov et al. 2023
    ("Is This Loss Informative?", DVAR), which is the same at every look.
    """
    if not 0 < config.patience < len(looks):
        return False
    before, recent = looks[: -config.patience], looks[-config.patience :]
    lowest = min(before)
    return lowest - min(recent) <= config.min_improvement * (looks[0] - lowest)
