"""Subjects to train, and the tiny backbone taken apart, for tests that change or convert a part."""

import hashlib
import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
)

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import TrainedOrigin
from dti_engine.backbones.clip import ClipTextEncoder
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.stable_diffusion import StableDiffusion
from dti_engine.images.decode import SubjectImage
from dti_engine.recipes import miniature
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.loop import Subject


def _image(seed: int, width: int = 24, height: int = 16) -> SubjectImage:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return SubjectImage(f"{seed}.png", Image.fromarray(pixels), digest, (width, height))


@pytest.fixture(scope="session")
def make_subject() -> Callable[..., Subject]:
    """make_subject(number, **changes) -> a subject with that seed and three images of its own."""

    def make(number: int, **changes: object) -> Subject:
        values = {
            "id": f"subject-{number}",
            "images": [_image(10 * number + i) for i in range(3)],
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
    """Return the tiny backbone in float64; its learned rows are float64, too."""
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
            "images": {"Ähre 犬.png": "0" * 64},
            "metrics": {"loss": 0.25, "fixed_loss": 0.2, "prior_angle_rad": 0.1},
            "first_fixed_loss": 0.3,
        }
        origin = TrainedOrigin(**(known | facts))
        return Artifact.of(token, model="miniature", fingerprint="a" * 64, origin=origin)

    return make


WORDS = """
a an the of in on with photo generating red blue dog cat bear toy hat beach forest snow city space
"""


@pytest.fixture(scope="session")
def tiny_scorers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random DINOv2 and a random SigLIP in their published layouts.

    Smaller by size alone: files, classes, steps of preprocessing and special tokens are theirs.
    """
    root = tmp_path_factory.mktemp("scorers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _save_dinov2(root / "dinov2-base")
        _save_siglip(root / "siglip-base-patch16-512")
    return root


def _save_dinov2(folder: Path) -> None:
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=7
    )
    Dinov2Model(config).save_pretrained(folder)
    stated = {
        "crop_size": {"height": 14, "width": 14},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "BitImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 16},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def _save_siglip(folder: Path) -> None:
    parts = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in sorted(set(WORDS.split())))]
    pieces += ["▁", *string.ascii_lowercase]
    text = {"vocab_size": len(pieces), "max_position_embeddings": 64, "projection_size": 32}
    vision = {"image_size": 32, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=parts | text, vision_config=parts | vision))
    model.logit_scale.data.fill_(2.0)  # the logarithm of a scale, as published: there 4.77
    model.logit_bias.data.fill_(-1.0)
    model.save_pretrained(folder)
    stated = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    scores = [0.0, 0.0, 0.0, *(-2.0 if piece[0] == "▁" else -9.0 for piece in pieces[3:])]
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
