"""Tokens as the nodes pass them: key of an encoder -> (n, d) rows, as in a file for ComfyUI.

A file of one encoder has the key `emb_params`, and one of SDXL has `clip_l` and `clip_g`. Every
blend works on each row by itself: on the direction, along the sphere, and on the length, along a
line.

Shapes: n vectors of one token, d coordinates of an embedding.

Source: Directional Textual Inversion, arXiv 2512.13672, section 4.5.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

Token = dict[str, Tensor]

SINGLE_KEY = "emb_params"
PAIR = ("clip_l", "clip_g")
MAX_BYTES = 64 * 2**20
_FOLDER = "dti"  # below ComfyUI's folder of embeddings


def parse_token(data: bytes, source: str) -> Token:
    """Return the token in a safetensors file; source names it in errors.

    Raises: ValueError if it is no embedding of one or two CLIP encoders.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{source} is larger than a token; choose the file of an embedding")
    try:
        token = {key: rows.float() for key, rows in safetensors.torch.load(data).items()}
    except Exception as error:
        raise ValueError(f"{source} is no safetensors file, or is damaged: {error}") from error
    if set(token) != set(PAIR) and len(token) != 1:
        raise ValueError(
            f"{source} has the keys {sorted(token)}; an embedding has one key, or clip_l and clip_g"
        )
    if len(token) == 1 and not set(token) <= set(PAIR):
        # The key may be the token's name, as diffusers writes it.
        token = {SINGLE_KEY: next(iter(token.values()))}
    for key, rows in token.items():
        rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim == 1 else rows
        if rows.ndim != 2 or not rows.isfinite().all() or not rows.any(dim=-1).all():
            raise ValueError(f"{source}: {key} is no matrix of rows that are finite and not zero")
        token[key] = rows
    return token


def slerp(a: Token, b: Token, t: float) -> Token:
    """Return the token at the fraction t from a to b; t = 0 gives a, and t = 1 gives b.

    Raises: ValueError if the tokens are of different models or numbers of vectors, or opposite.
    """
    shapes = [{key: tuple(rows.shape) for key, rows in token.items()} for token in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"only tokens of one model and number of vectors can be blended: {shapes[0]} and "
            f"{shapes[1]}"
        )
    if t in (0, 1):
        return dict(b if t else a)
    return {key: _slerp_rows(a[key], b[key], t) for key in a}


def scale(token: Token, factor: float) -> Token:
    """Return the token with its magnitudes times a factor; directions stay as they are."""
    return {key: factor * rows for key, rows in token.items()}


def with_fidelity(token: Token, words: Token, fidelity: float) -> Token:
    """Return the token moved towards words of the vocabulary, at its own magnitudes.

    words: key -> (w, d) rows of the word's pieces, which repeat as the vectors outnumber them.
    fidelity: 1 is the token itself, and 0 has the directions of the words.
    """
    pieces = {
        key: words[key][torch.arange(len(rows)) % len(words[key])] for key, rows in token.items()
    }
    ends = {
        key: pieces[key] / _lengths(pieces[key]) * _lengths(rows) for key, rows in token.items()
    }
    return slerp(ends, token, fidelity)


def save_token(token: Token, name: str, folder: Path) -> str:
    """Write the token below a folder of embeddings, and return its name in a prompt.

    The name ends in a digest of the content, so that a cached image never belongs to other rows.
    """
    data = safetensors.torch.save({key: rows.contiguous() for key, rows in token.items()})
    digest = hashlib.sha256(data).hexdigest()[:10]
    stem = f"{re.sub(r'[^a-z0-9_-]+', '-', name.lower()).strip('-') or 'token'}-{digest}"
    path = folder / _FOLDER / f"{stem}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return f"embedding:{_FOLDER}/{stem}"


def fill_prompt(text: str, name: str) -> str:
    """Return the text with the token's name, between blanks, in place of each `{}`.

    ComfyUI knows the name only behind a blank, and reads it up to the next one.

    Raises: ValueError if the text has no `{}`.
    """
    if "{}" not in text:
        raise ValueError(f"the text {text!r} has no {{}}, which stands for the token; add one")
    return re.sub(r" ?\{\} ?", lambda _: f" {name} ", text).strip()


def _slerp_rows(a: Tensor, b: Tensor, t: float) -> Tensor:
    lengths_a, lengths_b = _lengths(a), _lengths(b)
    unit_a, unit_b = a / lengths_a, b / lengths_b
    # By both half-angles, which is exact for directions that are nearly equal.
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=-1), (unit_a + unit_b).norm(dim=-1))
    if bool((angle > torch.pi - 1e-4).any()):
        raise ValueError("two directions are opposite, so that no path between them is shorter")
    angle = angle[:, None]
    # sin(t x) / sin(x), which is t where x is 0.
    weights = [
        torch.sinc(s * angle / torch.pi) * s / torch.sinc(angle / torch.pi) for s in (1 - t, t)
    ]
    direction = weights[0] * unit_a + weights[1] * unit_b
    return torch.lerp(lengths_a, lengths_b, t) * direction / _lengths(direction)


def _lengths(rows: Tensor) -> Tensor:
    """Return the lengths (n, 1)."""
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
