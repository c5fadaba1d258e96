"""Safetensors files with a text in the header and a checksum of the whole content.

Checksum and text are one header entry, "<sha256> <text>", because safetensors writes several
entries in an arbitrary order. The checksum detects corruption, not tampering: it has no key.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


@dataclass(frozen=True)
class CheckedFile:
    """The text of a file, and whether the checksum matches."""

    text: str
    is_intact: bool  # text and tensors match the checksum


def write_checked(key: str, text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file's content; the same text and tensors always give the same bytes.

    key: of the header entry. The tensors must be contiguous and share no memory.
    """
    return safetensors.torch.save(dict(tensors), {key: f"{_digest(text, tensors)} {text}"})


def load_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises: SafetensorError if it is damaged."""
    try:
        return safetensors.torch.load(data)
    except SafetensorError:
        raise
    # The library reads types of numbers that its part for torch does not know.
    except Exception as error:
        raise SafetensorError(f"{type(error).__name__}: {error}") from error


def read_metadata(data: bytes) -> Mapping[str, str]:
    """Return the text entries in the header of a valid safetensors file."""
    # Layout: the length of the header in 8 bytes, little-endian, then the header as JSON.
    # Parsed again, as the library's loader of bytes returns the tensors without the metadata.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__") or {}


def read_checked(key: str, data: bytes, tensors: Mapping[str, Tensor]) -> CheckedFile | None:
    """Return the text under a key of a valid safetensors file; None if there is none.

    tensors: all tensors in `data`, already loaded.
    """
    entry = read_metadata(data).get(key)
    if entry is None:
        return None
    digest, _, text = entry.partition(" ")
    return CheckedFile(text, is_intact=digest == _digest(text, tensors))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    # Of the tensors as the format stores them, so that names, shapes and dtypes count too.
    return hashlib.sha256(text.encode() + safetensors.torch.save(dict(tensors))).hexdigest()
