"""Conversion of images and masks to tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dti_engine.errors import ConfigurationError


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images of one size as (B, 3, H, W) float32 in [-1, 1].

    Raises: ConfigurationError if there are none, or they differ in size or are not RGB.
    """
    kinds = sorted({(image.mode, image.size) for image in images})
    if len(kinds) != 1 or kinds[0][0] != "RGB":
        raise ConfigurationError(f"images must be RGB and all of one size, got {kinds or 'none'}")
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))  # (B, H, W, 3)
    return pixels.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def mask_weights(masks: Sequence[Image.Image | None], height: int, width: int) -> Tensor:
    """Return (B, 1, h, w) float32 weights of the squared error, with mean 1 in each sample.

    The weight of a latent, of which there are height x width, is proportional to the mean of the
    mask's pixels there; None weighs all latents alike. A mask is greyscale and not all black.
    With mean 1 the loss has the size that it has without a mask, and so has the prior's influence.
    """
    weights = [torch.ones(1, 1, height, width)]
    for mask in masks:
        if mask is None:
            weights.append(weights[0])
            continue
        # In float64 sums of 8-bit values are exact, so an all-white mask gives exactly ones.
        pixels = torch.from_numpy(np.array(mask, dtype=np.float64))[None, None]
        area = torch.nn.functional.adaptive_avg_pool2d(pixels, (height, width))
        weights.append((area / area.mean()).float())
    return torch.cat(weights[1:])
