"""Tiny checkpoints of the larger families: the real classes and layouts, random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionXLPipeline,
)
from tiny_models import tiny_autoencoder, tiny_unet
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
)

from dti_engine.backbones.sana import instruction


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


@pytest.fixture(scope="session")
def make_sana_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> Callable[..., Path]:
    """make_sana_checkpoint() -> folder of a model of 32 x 32 pixels, the least of the pipeline."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("weights") / "tiny-sana"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _sana_pipeline(words).save_pretrained(folder)
        return folder

    return make


def _sdxl_pipeline(
    make_tokenizer: Callable[..., CLIPTokenizer], force_zeros: bool
) -> StableDiffusionXLPipeline:
    """Return a tiny SDXL: its second tokenizer pads with "!", and eos_token_id is 2 in both."""
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
    unet = tiny_unet(
        cross_attention_dim=80,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
    for name, weight in unet.named_parameters():
        if "attn2" in name or "add_embedding" in name:
            weight.data *= 4  # a random denoiser hardly hears its prompt
    vae = tiny_autoencoder(
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


def _sana_pipeline(words: list[str]) -> SanaPipeline:
    """Return a tiny SANA whose attention window is shorter than the instruction."""
    tokenizer = _gemma_tokenizer(words)
    text_config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=64,
        initializer_range=0.2,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=text_config.hidden_size,
        sample_size=8,
        qk_norm="rms_norm_across_heads",
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    scheduler = DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    return SanaPipeline(tokenizer, Gemma2Model(text_config), vae, transformer, scheduler)


def _gemma_tokenizer(words: list[str]) -> GemmaTokenizer:
    """Gemma's BPE: blanks are letters, words are one token each with one before them and without.

    No digit was trained with a blank before it, as in Gemma's vocabulary.
    """
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    trained = [*words, *instruction().split()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=5000, initial_alphabet=list("0123456789,.!&\n"), show_progress=False
    )
    bpe.train_from_iterator([f"{blank}{word}" for word in trained for blank in ("", "▁")], trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    names = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(bpe.get_vocab())]
    return GemmaTokenizer(
        vocab={name: number for number, name in enumerate(names)},
        merges=merges,
        add_bos_token=True,
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        padding_side="right",
    )
