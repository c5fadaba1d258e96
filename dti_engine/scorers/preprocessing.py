"""Pictures as a vision model takes them, by its own preprocessor_config.json.

The same as transformers' processors on PIL, of whom those that need torchvision round otherwise.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dti_engine.errors import BackboneLoadError

_FILE = "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize, crop the centre if asked, and normalise. Sizes in pixels, (height, width)."""

    shortest_edge: int | None  # aspect kept; None: to `size`, whatever the aspect
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Image.Resampling
    scale: float  # of 8-bit levels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises: BackboneLoadError if the file is missing, or asks for what is not known here."""
        try:
            stated: dict[str, Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            size, crop = stated["size"], stated.get("crop_size") or {}
            return cls(
                shortest_edge=size.get("shortest_edge"),
                size=None if "shortest_edge" in size else (size["height"], size["width"]),
                crop=(crop["height"], crop["width"]) if stated.get("do_center_crop") else None,
                resample=Image.Resampling(stated["resample"]),
                scale=stated["rescale_factor"],
                mean=tuple(stated["image_mean"]),
                std=tuple(stated["image_std"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise BackboneLoadError(
                f"{str(folder)!r} has no {_FILE} that can be followed ({cause!r}); download it "
                "again, with that file"
            ) from cause

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any sizes, at least one, as (B, 3, H, W) float32."""
        pixels = np.stack([self._prepared(each) for each in images])
        levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() * self.scale
        mean, std = (torch.tensor(each).double()[:, None, None] for each in (self.mean, self.std))
        return ((levels - mean) / std).float().contiguous()

    def _prepared(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """(H, W, 3)"""
        width, height = image.size
        if self.shortest_edge is not None:
            short = min(width, height)
            # Rounded down, as both torchvision and transformers have it.
            width, height = (self.shortest_edge * side // short for side in (width, height))
        elif self.size is not None:
            height, width = self.size
        image = image.convert("RGB").resize((width, height), self.resample)
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(image)
