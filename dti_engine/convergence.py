"""When more steps of a subject would change little, by its loss on a fixed batch. Loads no torch.

The loss of a step tells nothing of that: it is of other pictures, times and noise at every step.
"""

from collections.abc import Sequence

from dti_engine.config import TrainConfig


def has_converged(looks: Sequence[float], config: TrainConfig) -> bool:
    """Whether the last `patience` looks have brought no gain.

    looks: the losses before training and after every `fixed_every` steps. A gain is a lowest loss
    that lies under the lowest before by more than `least_gain` of the whole fall so far.

    Source: patience as for early stopping, Prechelt 1998, on the batch of Voronov et al. 2023
    ("Is This Loss Informative?", DVAR), which is the same at every look.
    """
    if not 0 < config.patience < len(looks):
        return False
    before, recent = looks[: -config.patience], looks[-config.patience :]
    lowest = min(before)
    return lowest - min(recent) <= config.least_gain * (looks[0] - lowest)
