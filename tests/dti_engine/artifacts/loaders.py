"""The reading rules of other programs, as their sources state them; each returns what it loads.

Nothing is copied: each function follows the conditions of one loader and leaves out its devices,
models and messages. `None` stands for a program that finds no such token.
"""

import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor


def _open(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, weights_only=True)


def load_comfyui(path: Path, key: str) -> Tensor:
    """Follow ComfyUI's `load_embed`; key: clip_l or clip_g for SDXL's encoders."""
    content = _open(path)
    if "string_to_param" in content:
        return next(iter(content["string_to_param"].values()))
    if key in content:
        return content[key]
    return next(iter(content.values()))


def names_in_comfyui(prompt: str, folder: Path) -> list[str]:
    """Return the embeddings that ComfyUI's `tokenize_with_weights` finds in a prompt."""

    def is_there(name: str) -> bool:
        return any((folder / f"{name}{suffix}").is_file() for suffix in ("", ".safetensors"))

    found: list[str] = []
    for segment in filter(None, re.split(r"[()]", prompt)):
        segment = re.sub(r":[\d.]+$", "", segment)  # the weight of brackets
        for word in re.split(r"(?<=\s)(?=embedding:)", segment):
            if word.startswith("embedding:"):
                name = re.split(r"[<\[]", word.removeprefix("embedding:").split()[0])[0]
                found += [each for each in (name, name.strip(",")) if is_there(each)][:1]
    return found


def load_a1111(path: Path) -> dict[str, Tensor] | Tensor:
    """Follow A1111's `create_embedding_from_data`; SDXL gives a tensor for each encoder."""
    content = _open(path)
    if "string_to_param" in content:
        (rows,) = content["string_to_param"].values()
        return rows
    if "clip_g" in content and "clip_l" in content:
        # It makes room for as many positions as clip_g has rows.
        assert len(content["clip_g"]) == len(content["clip_l"])
        return content
    (rows,) = content.values()
    return rows if rows.ndim > 1 else rows[None]


def load_kohya(path: Path, *, is_sdxl: bool) -> list[Tensor]:
    """Follow kohya's `load_weights` and `gen_img.py`."""
    content = _open(path)
    content = content.get("string_to_param", content)
    if is_sdxl:
        assert len(content["clip_l"]) == len(content["clip_g"])
        return [content["clip_l"], content["clip_g"]]
    return [next(iter(content.values()))]


def load_onetrainer(path: Path, key: str) -> Tensor:
    """Follow OneTrainer's `_setup_embeddings`; key: that of the model's text encoder."""
    content = _open(path)
    return content.get(f"{key}_out", content.get(key))


def load_invokeai(path: Path) -> tuple[str, list[Tensor]]:
    """Follow InvokeAI's recognition of models, then `from_checkpoint`."""
    content = _open(path)
    if "emb_params" in content:
        width = content["emb_params"].shape[-1]
    elif "clip_g" in content:
        width = content["clip_g"].shape[-1]
    else:
        width = next(iter(content.values())).shape[0]
    base = {768: "sd-1", 1024: "sd-2", 1280: "sdxl"}[width]
    if "emb_params" in content:
        return base, [content["emb_params"]]
    if "clip_g" in content and "clip_l" in content:
        return base, [content["clip_l"], content["clip_g"]]
    return base, [next(iter(content.values()))]


def names_in_invokeai(prompt: str) -> list[str]:
    """Follow `extract_ti_triggers_from_prompt`."""
    return [each[1:-1] for each in re.findall(r"<[a-zA-Z0-9., _-]+>", prompt)]
