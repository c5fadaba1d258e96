"""Sizes that make published models small enough to run on a CPU within a second."""

from collections.abc import Mapping
from typing import Any

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
