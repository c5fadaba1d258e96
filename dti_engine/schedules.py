"""How the learning rate changes over the steps of a subject. Loads no torch."""

import math

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
