"""Safetensors files with a text in their header, and a digest of all that they hold.

Text and digest make up one entry, "<sha256> <text>": safetensors writes several entries in an order
that differs every time. The digest finds turned bits; who means harm can compute it anew.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
from torch import Tensor


@dataclass(frozen=True)
class CheckedFile:
    """A text as it is found in a file."""

    text: str
    is_intact: bool  # whether text and tensors are those that were written


def write_checked(key: str, text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The file's content; the same text and tensors always give the same bytes.

    key: of the text in the header. The tensors are contiguous, and share no memory.
    """
    return safetensors.torch.save(dict(tensors), {key: f"{_digest(text, tensors)} {text}"})


def read_checked(key: str, data: bytes, tensors: Mapping[str, Tensor]) -> CheckedFile | None:
    """The text under a key of a file that safetensors found valid; None if it has none.

    tensors: all that were loaded of `data`.
    """
    # Layout: the length of the header in 8 bytes, little-endian, then the header as JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    entry = (header.get("__metadata__") or {}).get(key)
    if entry is None:
        return None
    digest, _, text = entry.partition(" ")
    return CheckedFile(text, is_intact=digest == _digest(text, tensors))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(text.encode() + safetensors.torch.save(dict(tensors))).hexdigest()
