"""Loading of a scorer from a folder in the layout of transformers, and its image preprocessing.

The preprocessing follows preprocessor_config.json and equals transformers' processors on PIL; the
processors on torchvision round differently, and would change scores.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from dti_engine.errors import ModelLoadError

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_HUB_FILES = ["*.json", "model*.safetensors", "spiece.model"]

ModelT = TypeVar("ModelT", bound=nn.Module)


def find_weights(name: str | Path, *, download: bool = True) -> Path:
    """Return the folder of a scorer by path or hub id, `owner/name` or `owner/name@revision`.

    download: whether files that are not in the local cache may be fetched from the hub.

    Raises:
        ModelLoadError: It is not available; the message says what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    found = _HUB_ID.fullmatch(str(name))
    if not found:
        raise ModelLoadError(
            f"there is no scorer at {str(name)!r}; give a folder with config.json and "
            "model.safetensors, or a hub id such as facebook/dinov2-base"
        )
    import huggingface_hub  # not needed where weights are local

    hub_id, revision = found.groups()
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=_HUB_FILES,
                local_files_only=not download,
            )
        )
    except (OSError, ValueError) as cause:
        failed = "downloading it failed" if download else "it was not downloaded before"
        raise ModelLoadError(
            f"{str(name)!r} is not a folder, and {failed}: {cause}. Where there is a network, run "
            f"`hf download {hub_id} --local-dir DIR`, copy DIR here and give it in place of the id"
        ) from cause


def load_model(model_class: type[ModelT], folder: Path, device: torch.device) -> ModelT:
    """Return the model of a folder in float32, frozen.

    Raises:
        ModelLoadError: It is damaged, incomplete or of another class.
    """
    from_pretrained = cast(Any, model_class).from_pretrained
    try:
        model, report = from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        raise ModelLoadError(
            f"{str(folder)!r} cannot be read as a {model_class.__name__}: {cause}. Download it "
            "again, with config.json and model.safetensors"
        ) from cause
    # Missing weights would be initialised at random, and only logged.
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(
            f"{str(folder)!r} lacks {len(missing)} weights of a {model_class.__name__}, such as "
            f"{missing[0]!r}; give the model that the scores are defined by, or download it again"
        )
    return model.to(device).eval().requires_grad_(False)


_FILE = "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resizing, optional centre crop and normalisation. Sizes are (height, width) in pixels."""

    shortest_edge: int | None  # keeps the aspect; None: resize to `size`, whatever the aspect
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Image.Resampling
    scale: float  # of 8-bit levels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the preprocessor_config.json of a folder.

        Raises:
            ModelLoadError: The file is missing, or has values that are not supported.
        """
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
            raise ModelLoadError(
                f"{str(folder)!r} has no {_FILE} that is supported ({cause!r}); download it "
                "again, with that file"
            ) from cause

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return RGB images of any sizes, at least one, as (B, 3, H, W) float32."""
        pixels = np.stack([self._prepared(each) for each in images])
        # In float64 until the end, so that only the last conversion rounds.
        levels = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() * self.scale
        mean, std = (torch.tensor(each).double()[:, None, None] for each in (self.mean, self.std))
        return ((levels - mean) / std).float().contiguous()

    def _prepared(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the image resized and cropped, (H, W, 3)."""
        width, height = image.size
        if self.shortest_edge is not None:
            short = min(width, height)
            # Rounded down, as in both torchvision and transformers.
            width, height = (self.shortest_edge * side // short for side in (width, height))
        elif self.size is not None:
            height, width = self.size
        image = image.convert("RGB").resize((width, height), self.resample)
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(image)
