"""Tiny checkpoints of the larger families: the real classes and layouts, random weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)


@pytest.fixture(scope="session")
def make_sdxl_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., CLIPTokenizer]
) -> Callable[..., Path]:
    """make_sdxl_checkpoint(force_zeros=True) -> folder of a model of 16 x 16 pixels."""

    def make(force_zeros: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("weights") / "tiny-xl"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _sdxl_pipeline(make_tokenizer, force_zeros).save_pretrained(folder)
        return folder

    return make


def _sdxl_pipeline(
    make_tokenizer: Callable[..., CLIPTokenizer], force_zeros: bool
) -> StableDiffusionXLPipeline:
    """As published: the second tokenizer pads with "!", and both configs have eos_token_id 2."""
    tokenizers = make_tokenizer(), make_tokenizer(pad_token="!")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2}, {"hidden_size": 48, "num_hidden_layers": 3}
    first, second = (
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            intermediate_size=64,
            projection_dim=24,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu" if size["hidden_size"] == 32 else "gelu",
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
            **size,
        )
        for tokenizer, size in zip(tokenizers, sizes, strict=True)
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=80,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )
