"""A scorer's folder in the layout of transformers: config, weights, preprocessing, tokenizer."""

import re
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from torch import nn

from dti_engine.errors import BackboneLoadError

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_HUB_FILES = ["*.json", "model*.safetensors", "spiece.model"]

ModelT = TypeVar("ModelT", bound=nn.Module)


def find_weights(name: str | Path, *, download: bool = True) -> Path:
    """The folder of a scorer, by path or by hub id, `owner/name` or `owner/name@revision`.

    download: whether what is not on this machine yet may be fetched from the hub.

    Raises: BackboneLoadError, which says what to do, if it is not to be had.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    found = _HUB_ID.fullmatch(str(name))
    if not found:
        raise BackboneLoadError(
            f"there is no scorer at {str(name)!r}; give a folder with config.json and "
            "model.safetensors, or a hub id such as facebook/dinov2-base"
        )
    import huggingface_hub  # of no use where weights are local

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
        raise BackboneLoadError(
            f"{str(name)!r} is not a folder, and {failed}: {cause}. Where there is a network, run "
            f"`hf download {hub_id} --local-dir DIR`, copy DIR here and give it in place of the id"
        ) from cause


def load_model(model_class: type[ModelT], folder: Path, device: torch.device) -> ModelT:
    """The model of a folder in float32, frozen.

    Raises: BackboneLoadError if it is damaged, incomplete or of another class.
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
        raise BackboneLoadError(
            f"{str(folder)!r} cannot be read as a {model_class.__name__}: {cause}. Download it "
            "again, with config.json and model.safetensors"
        ) from cause
    # What is missing would be random, and only be logged.
    if missing := sorted(report["missing_keys"]):
        raise BackboneLoadError(
            f"{str(folder)!r} lacks {len(missing)} weights of a {model_class.__name__}, such as "
            f"{missing[0]!r}; give the model that the scores are defined by, or download it again"
        )
    return model.to(device).eval().requires_grad_(False)
