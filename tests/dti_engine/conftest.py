"""Subjects to train, and the tiny backbone taken apart, for tests that change or convert a part."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dti_engine.artifact import Artifact
from dti_engine.backbones.clip import ClipTextEncoder
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.stable_diffusion import StableDiffusion
from dti_engine.images import Picture
from dti_engine.manifest import Trained
from dti_engine.recipes import miniature
from dti_engine.tokens import LearnedToken
from dti_engine.trainer import Subject


def _picture(seed: int, width: int = 24, height: int = 16) -> Picture:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Picture(f"{seed}.png", Image.fromarray(pixels), digest, (width, height))


@pytest.fixture(scope="session")
def make_subject() -> Callable[..., Subject]:
    """make_subject(number, **changes) -> a subject with that seed and three pictures of its own."""

    def make(number: int, **changes: object) -> Subject:
        values = {
            "id": f"subject-{number}",
            "pictures": [_picture(10 * number + i) for i in range(3)],
            "placeholder": "<rex>",
            "initializer": "dog",
            "seed": number,
        }
        return Subject(**(values | changes))

    return make


@dataclass
class Parts:
    """The tiny checkpoint, each part by itself."""

    text_model: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: DDIMScheduler

    def assembled(self) -> Backbone:
        encoder = ClipTextEncoder("text_encoder", self.text_model, self.tokenizer)
        return StableDiffusion("parts", encoder, self.unet, self.vae, self.scheduler.config)


@pytest.fixture(scope="session")
def load_parts(tiny_checkpoint: Path) -> Callable[[torch.dtype], Parts]:
    """load_parts(dtype) -> fresh parts, all in that dtype; `load_backbone` leaves one float32."""

    def load(dtype: torch.dtype) -> Parts:
        pipeline = StableDiffusionPipeline.from_pretrained(
            tiny_checkpoint, dtype=dtype, low_cpu_mem_usage=False
        )
        models = pipeline.text_encoder, pipeline.unet, pipeline.vae
        text_model, unet, vae = (model.eval().requires_grad_(False) for model in models)
        return Parts(text_model, pipeline.tokenizer, unet, vae, pipeline.scheduler)

    return load


@pytest.fixture(scope="session")
def exact_backbone(load_parts: Callable[[torch.dtype], Parts]) -> Backbone:
    """The tiny backbone in float64; its learned rows are float64, too."""
    return load_parts(torch.float64).assembled()


@pytest.fixture(scope="session")
def artifact_of() -> Callable[..., Artifact]:
    """artifact_of(embeddings, **facts) -> <rex>, trained on weights of fingerprint "aa..."."""

    def make(embeddings: dict[str, Tensor], **facts: object) -> Artifact:
        token = LearnedToken("<rex>", embeddings, facts.get("pooling", "eos"))
        known = {
            "initializer": "dog",
            "config": miniature(),
            "seed": 2**64 - 1,
            "steps_done": 400,
            "pictures": {"Ähre 犬.png": "0" * 64},
            "figures": {"loss": 0.25, "fixed_loss": 0.2, "prior_angle_rad": 0.1},
            "first_fixed_loss": 0.3,
        }
        origin = Trained(**(known | facts))
        return Artifact.of(token, backbone="miniature", fingerprint="a" * 64, origin=origin)

    return make
