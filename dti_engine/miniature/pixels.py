"""Pictures as the networks take them."""

import numpy as np
import torch
from torch import Tensor

from dti_engine.miniature.world.canvas import SIZE


def to_pixels(drawn: np.ndarray) -> Tensor:
    """(B, SIZE, SIZE, 3) uint8 -> (B, 3, SIZE, SIZE) float in [-1, 1]."""
    assert drawn.shape[1:] == (SIZE, SIZE, 3)
    levels = torch.from_numpy(np.ascontiguousarray(drawn)).permute(0, 3, 1, 2).float()
    return levels.div(127.5).sub(1.0)
