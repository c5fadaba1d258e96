"""A folder of weights in the diffusers layout: `model_index.json` and one folder per part.

Parts are read one by one, so a checkpoint needs only those that its family uses. Only safetensors
are read: a pickle can run code.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import nn

from dti_engine.errors import BackboneLoadError

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Weights of parts only: beside them lie the same again in one file of 4 to 8 GB, often several.
_HUB_FILES = ["*.json", "*.txt", "*.model", "*/*.safetensors"]
_HUB_IGNORED = ["*.fp16.*", "*non_ema*", "safety_checker/*", "image_encoder/*"]

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder; `index` is its model_index.json: classes of the pipeline and the parts."""

    name: str
    folder: Path
    index: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        """Class name of the diffusers pipeline that the weights belong to."""
        return str(self.index.get("_class_name"))

    def config(self, part: str) -> dict[str, Any]:
        """What the part's config.json says. Raises: BackboneLoadError if it cannot be read."""
        return self.read(part, lambda folder: json.loads((folder / "config.json").read_text()))

    def read(self, part: str, reader: Callable[[Path], T]) -> T:
        """What `reader` makes of the part's folder. Raises: BackboneLoadError if it cannot."""
        folder = self.folder / part
        if not folder.is_dir():
            raise BackboneLoadError(
                f"checkpoint {self.name!r} has no folder {part!r}; download it again, whole"
            )
        try:
            return reader(folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
            raise BackboneLoadError(
                f"part {part!r} of checkpoint {self.name!r} cannot be read: {cause}. Download it "
                "again, with its .safetensors files"
            ) from cause

    def model(
        self,
        model_class: type[ModelT],
        part: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        **options: Any,
    ) -> ModelT:
        """A part as this class, in evaluation mode and without gradients.

        Raises: BackboneLoadError if it is missing, of another class, damaged or incomplete.
        """
        _, found = self.index.get(part) or (None, None)
        if found != model_class.__name__:
            raise BackboneLoadError(
                f"part {part!r} of checkpoint {self.name!r} is a {found}; {self.pipeline} is "
                f"supported with a {model_class.__name__}"
            )
        from_pretrained: Callable[..., tuple[ModelT, dict[str, Any]]]
        from_pretrained = cast(Any, model_class).from_pretrained  # transformers and diffusers alike
        options |= {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
        model, report = self.read(
            part, lambda folder: from_pretrained(folder, output_loading_info=True, **options)
        )
        # Both libraries fill what is missing with random numbers, and only log that they did.
        if missing := sorted(report["missing_keys"]):
            raise BackboneLoadError(
                f"part {part!r} of checkpoint {self.name!r} lacks {len(missing)} weights, such as "
                f"{missing[0]!r}; download it again"
            )
        return model.to(device).eval().requires_grad_(False)


def open_checkpoint(weights: str | Path) -> Checkpoint:
    """Find weights by the name "miniature", by folder, or by hub id, which is downloaded.

    Raises: BackboneLoadError if there are none, or they are not in the diffusers layout.
    """
    name, folder = _locate(weights)
    try:
        index = dict(json.loads((folder / "model_index.json").read_text()))
    except (OSError, ValueError, TypeError) as cause:
        raise BackboneLoadError(
            f"{str(weights)!r} has no readable model_index.json; give a folder in the diffusers "
            "layout (convert a single .safetensors file first)"
        ) from cause
    return Checkpoint(name, folder, index)


def _locate(weights: str | Path) -> tuple[str, Path]:
    folder = Path(weights).expanduser()
    if str(weights) == "miniature":
        if not MINIATURE.is_dir():
            raise BackboneLoadError(
                "the miniature's weights are not in this installation; install the package with "
                "its data, or make them with `python -m dti_engine.miniature.recipe`"
            )
        return "miniature", MINIATURE
    if folder.exists():
        return folder.resolve().name, folder
    if isinstance(weights, str) and _HUB_ID.fullmatch(weights):
        return weights, _download(weights)
    raise BackboneLoadError(
        f"there are no weights at {str(weights)!r}; give a folder in the diffusers layout, "
        "'miniature', or a hub id such as 'stable-diffusion-v1-5/stable-diffusion-v1-5'"
    )


def _download(hub_id: str) -> Path:
    import huggingface_hub  # of no use where weights are local

    try:
        snapshot = huggingface_hub.snapshot_download(
            hub_id, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED
        )
    except (OSError, ValueError) as cause:
        raise BackboneLoadError(
            f"{hub_id!r} is not a folder, and downloading it failed: {cause}. Check the name, the "
            "network and, for a gated model, your login"
        ) from cause
    return Path(snapshot)
