"""What other programs call formats and text encoders."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

FormatName: TypeAlias = Literal["diffusers", "comfyui", "a1111"]

# diffusers' names of CLIP encoders -> the keys of files with both.
CLIP_KEYS: Mapping[str, str] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
SINGLE_KEY = "emb_params"  # of files with one encoder, where the file's name names the token
A1111_KEY = "string_to_param"
EXPORT_KEY = "dti_export"  # in a safetensors header: our manifest, for whoever looks
