"""Export of a trained miniature into a folder that diffusers opens."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.miniature.scorer import Scorer, save_scorer
from dti_engine.miniature.training.loop import atomic_write
from dti_engine.miniature.training.networks import new_scheduler


@dataclass(frozen=True, eq=False)
class Parts:
    """The trained parts of a miniature."""

    autoencoder: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    denoiser: UNet2DConditionModel
    scorer: Scorer


def export(parts: Parts, folder: Path) -> None:
    """Write the model in the ordinary diffusers layout, and the scorer beside it."""
    build: Any = StableDiffusionPipeline  # its annotations require the optional parts
    pipeline = build(
        vae=parts.autoencoder,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.denoiser,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    save_scorer(parts.scorer, folder / "scorer.safetensors")
    for file in folder.rglob("*.safetensors"):
        halve(file)


def halve(file: Path) -> None:
    """Rewrite a file's weights in half precision.

    Only the file shrinks: configs still state float32, in which libraries compute, on CPUs too.
    Training ran in bfloat16, whose resolution of weights is coarser than half precision.
    """
    weights = load_file(file)
    halves = {key: w.half() if w.is_floating_point() else w for key, w in weights.items()}
    # transformers refuses a file without a format in its metadata.
    atomic_write(file, lambda unfinished: save_file(halves, unfinished, {"format": "pt"}))


_SOURCE = Path(__file__).parents[1]  # of the miniature, its world included


def commit() -> str | None:
    """Return the last commit that changed the miniature's source, or None where git has none."""
    try:
        revision = _git("log", "-1", "--format=%H", "--", "*.py")
        changed = _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    if not revision:
        return None
    return f"{revision}, with changes not yet committed" if changed else revision


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_SOURCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
