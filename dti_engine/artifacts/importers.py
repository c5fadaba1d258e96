"""Import tokens from the file formats of other programs.

Nothing in a file is executed: safetensors has only numbers, and a pickle is opened with torch's
restricted loader, which rejects everything but tensors and plain values.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ImportedOrigin
from dti_engine.artifacts.programs import (
    A1111_KEY,
    CLIP_KEYS,
    GEMMA,
    ONETRAINER_KEY,
    SINGLE_KEY,
    find_family,
)
from dti_engine.backbones.interface import Backbone
from dti_engine.config import ExportFormat
from dti_engine.errors import ArtifactError, ArtifactFormatError, ArtifactMismatchError
from dti_engine.text.tokens import LearnedToken

_MAX_BYTES = 64 * 2**20
_FIRST, _SECOND = CLIP_KEYS
_UNNAMED: Mapping[str, ExportFormat] = {
    SINGLE_KEY: "comfyui",
    ONETRAINER_KEY: "onetrainer",
    GEMMA: "onetrainer",
}
"""Keys of files with one encoder that are no token's name, and the program that writes them."""
_PICKLES = frozenset({".pt", ".bin", ".pth"})


@dataclass(frozen=True, eq=False)
class ForeignToken:
    """The content of a foreign file: encoder -> (n, d) float32 rows, and the token's name in it."""

    embeddings: Mapping[str, Tensor]
    name: str | None
    format_name: ExportFormat


def read_foreign(path: Path, second: Path | None = None) -> ForeignToken:
    """Read the token in a file; `second` is the other file of diffusers' pair for SDXL.

    Raises: ArtifactError if a file cannot be read; ArtifactFormatError if it is damaged, larger
        than a token, of an unknown format, or not an (n, d) matrix of finite numbers.
    """
    first = _read(path)
    if second is None:
        return first
    other = _read(second)
    for token, file in ((first, path), (other, second)):
        if list(token.embeddings) != [_FIRST]:
            raise ArtifactFormatError(
                f"{str(file)!r} has rows for {', '.join(token.embeddings)}; each file of a pair "
                "has one encoder's. Give it alone"
            )
    embeddings = {_FIRST: first.embeddings[_FIRST], _SECOND: other.embeddings[_FIRST]}
    return ForeignToken(embeddings, first.name, "diffusers")


def _read(path: Path) -> ForeignToken:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read {str(path)!r}: {error.strerror}") from error
    try:
        if len(data) > _MAX_BYTES:
            raise ArtifactFormatError(f"larger than {_MAX_BYTES} bytes, so not a token")
        content = _unpickle(data) if path.suffix in _PICKLES else safetensors.torch.load(data)
        return _parse(content)
    except SafetensorError as error:
        raise ArtifactFormatError(
            f"{str(path)!r}: not a safetensors file, or damaged: {error}"
        ) from error
    except ArtifactFormatError as error:
        raise ArtifactFormatError(f"{str(path)!r}: {error}") from error


def _unpickle(data: bytes) -> Any:
    try:
        # Old A1111 and the first Textual Inversion code write this class; it has tensors only.
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ArtifactFormatError(
            "a pickle that is damaged, or that holds more than tensors and plain values and could "
            "run code; convert it to safetensors with the program that wrote it"
        ) from error


def _parse(content: Any) -> ForeignToken:
    """Return the token in a file's content; its keys tell the format."""
    if isinstance(content, Tensor):
        return ForeignToken({_FIRST: _rows("the tensor", content)}, None, "diffusers")
    if not isinstance(content, Mapping):
        raise ArtifactFormatError(f"it holds a {type(content).__name__}, not a token")
    entries = cast(Mapping[str, Any], content)
    if A1111_KEY in entries:
        try:
            tokens = dict(entries[A1111_KEY])
        except (TypeError, ValueError):  # not a mapping
            tokens = {}
        if len(tokens) != 1:
            raise ArtifactFormatError(f"it holds {len(tokens)} tokens; save them one by one")
        ((key, rows),) = tokens.items()
        name = entries.get("name")
        return ForeignToken({_FIRST: _rows(key, rows)}, str(name) if name else None, "a1111")
    keys = {key: name for name, key in CLIP_KEYS.items()}
    if entries.keys() & keys.keys():
        if not entries.keys() <= keys.keys():
            raise ArtifactFormatError(
                f"it has the keys {', '.join(sorted(map(str, entries)))}; "
                f"{' and '.join(keys)} are supported"
            )
        rows = {name: _rows(key, entries[key]) for key, name in keys.items() if key in entries}
        return ForeignToken(rows, None, "comfyui")
    if len(entries) != 1:
        raise ArtifactFormatError(
            f"it has the keys {', '.join(sorted(map(str, entries))) or 'none'}; a token of one "
            "encoder has one key, one of SDXL has clip_l and clip_g"
        )
    ((key, value),) = entries.items()
    rows = _rows(key, value)
    if key in _UNNAMED:
        return ForeignToken({_encoder_of(rows): rows}, None, _UNNAMED[key])
    return ForeignToken({_encoder_of(rows): rows}, key, "diffusers")


def _encoder_of(rows: Tensor) -> str:
    """Return the encoder of rows in a file with one: Gemma's width tells it, others are CLIP's."""
    return GEMMA if find_family({GEMMA: rows.shape[-1]}) else _FIRST


def _rows(key: str, value: Any) -> Tensor:
    """Return (n, d) float32 rows; a single vector may be (d,)."""
    rows = value.detach() if isinstance(value, Tensor) else None
    if rows is None or not rows.is_floating_point() or rows.ndim not in (1, 2) or not rows.numel():
        shape = tuple(rows.shape) if rows is not None else type(value).__name__
        raise ArtifactFormatError(
            f"{key!r} must be (n, d) numbers, one row per vector, got {shape}"
        )
    # `clone`: a view would keep the whole storage of the file in memory.
    rows = rows.float().reshape(-1, rows.shape[-1]).clone()
    if not bool(rows.isfinite().all()):
        raise ArtifactFormatError(f"{key!r} holds numbers that are not finite")
    return rows


def import_token(
    files: Sequence[Path], backbone: Backbone, *, placeholder: str | None = None
) -> Artifact:
    """Return the token in a file, or in diffusers' pair of files, as an artifact for this model.

    placeholder: its name; None for the name in the file, made into a placeholder.

    Raises: as `read_foreign`; ArtifactMismatchError if encoders or dimensions are not those of the
        model; TokenError if the name is not a placeholder.
    """
    foreign = read_foreign(*files)
    dims = {name: rows.shape[-1] for name, rows in foreign.embeddings.items()}
    model_dims = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
    if dims != model_dims:
        raise ArtifactMismatchError(
            f"{', '.join(file.name for file in files)} has embeddings of the dimensions {dims}, "
            f"{backbone.name} has {model_dims}; give the model that it was trained on, and both "
            "files of a pair"
        )
    name = placeholder or _placeholder(foreign.name, files[0])
    # Other programs add tokens to the vocabulary, and so pool at the token.
    token = LearnedToken(name, foreign.embeddings, "legacy" if backbone.pools else "eos")
    origin = ImportedOrigin(
        format_name=foreign.format_name,
        pooling=token.pooling if backbone.pools else None,
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )
    return Artifact.of(token, model=backbone.name, fingerprint=backbone.fingerprint, origin=origin)


def _placeholder(name: str | None, file: Path) -> str:
    """Return a placeholder from the name in the file, or else from the file's own name.

    Many files have `*` or no name at all.
    """
    for text in (name or "", file.stem):
        if cleaned := re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]:
            return f"<{cleaned}>"
    return f"<{file.stem}>"
