"""Models of the published classes and sizes with random weights, for benchmarks of speed.

Speed depends on the shapes and dtypes of weights, not on their values. A random checkpoint is a
folder of configurations and a made-up tokenizer of the published size; the engine loads it by its
own code, which lays out and converts parts as it does with published weights. Parts are created on
their device and in their dtype, so that the host never holds SDXL in float32.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTokenizer

from benchmarks.models.random_tokenizers import clip_tokenizer, gemma_tokenizer
from dti_engine.backbones.checkpoint import ModelFolder, open_checkpoint
from dti_engine.backbones.interface import Backbone
from dti_engine.backbones.registry import FAMILIES, ModelDescription, describe, published
from dti_engine.backbones.unet import load_scheduler_config

SEED = 0


@dataclass(frozen=True)
class RandomCheckpoint(ModelFolder):
    """A folder of configurations whose models get weights from a fixed seed.

    The constructors draw small weights and set norms to one, so that nothing overflows.
    """

    device: torch.device

    def model(
        self,
        model_class: type[Any],
        part: str,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        **options: Any,
    ) -> Any:
        """Return a part with random weights, created on the checkpoint's device."""
        dtype = dtype or torch.bfloat16  # SANA's weights are stored in it
        assert model_class.__name__ == self.index[part][1]
        folder, before = self.folder / part, torch.get_default_dtype()
        torch.manual_seed(SEED)
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                if issubclass(model_class, diffusers.ModelMixin):
                    model = model_class.from_config(self.config(part))
                else:
                    attention = {"attn_implementation": options["attn_implementation"]}
                    config = model_class.config_class.from_pretrained(folder, **attention)
                    model = model_class(config).to(
                        dtype
                    )  # the configuration may state another dtype
        finally:
            torch.set_default_dtype(before)
        return model.eval().requires_grad_(False)


def open_model(
    name: str, folder: Path, *, device: torch.device, small: bool = False
) -> ModelFolder:
    """Open the miniature's checkpoint, or write a random one of a published model into `folder`.

    With `small`, layers are few and narrow and images have 64 px; the classes, options and
    vocabulary are the published ones.

    Raises:
        ModelLoadError: The name is unknown.
    """
    if name == "miniature":
        return open_checkpoint(name)
    model = published(name)
    index = json.loads((model.folder / "model_index.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    configs = {part.name: model.configuration(part.name) for part in model.parts}
    if small:
        configs = {part: shrunk(config, index[part][1]) for part, config in configs.items()}
    for part, config in configs.items():
        _write(folder / part / "config.json", config)
    _write(folder / "model_index.json", index)
    schedule = (model.folder / "scheduler" / "scheduler_config.json").read_text()
    _write(folder / "scheduler" / "scheduler_config.json", json.loads(schedule))
    for part in [each for each in index if each.startswith("tokenizer")]:
        size = configs[part.replace("tokenizer", "text_encoder")]["vocab_size"]
        if index["_class_name"] == "SanaPipeline":
            tokenizer = gemma_tokenizer(size)
        else:
            tokenizer = clip_tokenizer(size, pad_with_mark=part == "tokenizer_2")
        tokenizer.save_pretrained(folder / part)
    return RandomCheckpoint(f"random-{name}", folder, index, device)


def load_engine(checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load the model as the engine does."""
    family = import_module(FAMILIES[checkpoint.pipeline])
    return family.load(checkpoint, device=device, dtype=dtype)


def load_pipeline(
    checkpoint: ModelFolder, *, device: torch.device, dtype: torch.dtype
) -> DiffusionPipeline:
    """Load Stable Diffusion 1, 2 or XL as diffusers does, all in `dtype`.

    The pipeline gets the engine's deterministic sampler, so that both take the same steps.
    """
    parts: dict[str, Any] = {}
    for part in [each.name for each in description(checkpoint).parts]:
        library, name = checkpoint.index[part]
        is_text = library == "transformers"
        options = {"attn_implementation": "sdpa"} if is_text else {"low_cpu_mem_usage": False}
        model_class = getattr(import_module(library), name)
        parts[part] = checkpoint.model(model_class, part, device=device, dtype=dtype, **options)
    for part in [each for each in checkpoint.index if each.startswith("tokenizer")]:
        parts[part] = checkpoint.read(part, CLIPTokenizer.from_pretrained)
    sampler = load_scheduler_config(checkpoint)
    parts["scheduler"] = diffusers.DDIMScheduler.from_config(sampler)
    if checkpoint.pipeline == "StableDiffusionXLPipeline":
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it warns that the miniature is small
        return diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )


def description(checkpoint: ModelFolder) -> ModelDescription:
    """Describe the model by its configurations, without counting parameters."""
    models = [each.parent.name for each in sorted(checkpoint.folder.glob("*/config.json"))]
    return describe(checkpoint.name, checkpoint.folder, dict.fromkeys(models, 0))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


# By class of the part, the settings that make it small; all other settings stay.
_TEXT = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_DC_WIDTHS, _DC_LAYERS = (32,) * 6, (1,) * 6
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "CLIPTextModel": {**_TEXT, "hidden_size": 32, "projection_dim": 32},
    "CLIPTextModelWithProjection": {**_TEXT, "hidden_size": 48, "projection_dim": 48},
    "Gemma2Model": {
        **_TEXT,
        "hidden_size": 32,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "vocab_size": 3000,
    },
    "UNet2DConditionModel": {"sample_size": 8, "layers_per_block": 1, "attention_head_dim": 2},
    "AutoencoderKL": {"block_out_channels": (32,) * 4, "layers_per_block": 1, "sample_size": 64},
    "SanaTransformer2DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 32,
        "num_layers": 2,
        "sample_size": 2,
    },
    "AutoencoderDC": {
        "attention_head_dim": 4,
        "encoder_block_out_channels": _DC_WIDTHS,
        "decoder_block_out_channels": _DC_WIDTHS,
        "encoder_layers_per_block": _DC_LAYERS,
        "decoder_layers_per_block": _DC_LAYERS,
    },
}


def shrunk(config: Mapping[str, Any], class_name: str) -> dict[str, Any]:
    """Return the configuration of a part with few and narrow layers."""
    small = {**config, **_SMALL[class_name]}
    if class_name == "UNet2DConditionModel":
        text, pooled, sizes = 32, 48, 8
        small["block_out_channels"] = (32, 64, 64, 64)[: len(config["block_out_channels"])]
        small["cross_attention_dim"] = text
        if config.get("addition_embed_type") == "text_time":
            small["cross_attention_dim"] = text + pooled
            small["addition_time_embed_dim"] = sizes
            small["projection_class_embeddings_input_dim"] = pooled + 6 * sizes
            small["transformer_layers_per_block"] = (1, 1, 2)
    return small
