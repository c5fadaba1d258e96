"""Import tokens from the file formats of other programs.

Nothing in a file is executed (`tensor_files`), and its content alone tells what it is. A file of
ours, and one that we exported, is imported as the token that it is, with its manifest.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import ARTIFACT_KEY, ImportedOrigin, Manifest
from dti_engine.artifacts.programs import (
    A1111_KEY,
    CLIP_KEYS,
    EXPORT_KEY,
    GEMMA,
    ONETRAINER_KEY,
    SINGLE_KEY,
    find_family,
)
from dti_engine.artifacts.tensor_files import (
    MAX_BYTES,
    ParameterDictState,
    TensorFile,
    read_tensor_file,
)
from dti_engine.backbones.interface import Backbone
from dti_engine.config import ExportFormat, Pooling
from dti_engine.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactMismatchError,
    DTIError,
    TokenError,
)
from dti_engine.text.tokens import LearnedToken

_FIRST, _SECOND = CLIP_KEYS
_ENCODERS = {key: name for name, key in CLIP_KEYS.items()}
_UNNAMED: Final[Mapping[Any, ExportFormat]] = {
    SINGLE_KEY: "comfyui",
    ONETRAINER_KEY: "onetrainer",
    GEMMA: "onetrainer",
}
"""Keys of files with one encoder that are no token's name, and a program that writes them."""

_MAX_VECTORS = 75  # what CLIP's prompt of 77 positions has room for
_MAX_WIDTH = 16_384


@dataclass(frozen=True, eq=False)
class ForeignToken:
    """The content of a foreign file: encoder -> (n, d) float32 rows, and the token's name in it.

    pooling: where the program that trained it pools the prompts of SDXL. manifest: ours, if the
    file is an export of ours, as text.
    """

    embeddings: Mapping[str, Tensor]
    name: str | None
    format_name: ExportFormat
    pooling: Pooling = "legacy"  # other programs add tokens to the vocabulary: pooled at the token
    manifest: str | None = None


def read_foreign(path: Path, second: Path | None = None) -> ForeignToken:
    """Read the token in a file; `second` is the other file of diffusers' pair for SDXL.

    Raises: ArtifactError if a file cannot be read; ArtifactFormatError if it is damaged, larger
        than a token, of an unknown format, or not an (n, d) matrix of finite numbers without rows
        of zeros.
    """
    return _read_foreign({file: _read_bytes(file) for file in (path, second) if file})


def parse_foreign(data: bytes) -> ForeignToken:
    """Return the token in a file's content. Raises: ArtifactFormatError as `read_foreign`."""
    return _parse(read_tensor_file(data))


def exported_artifact(foreign: ForeignToken) -> Artifact | None:
    """Return the token of ours that was exported to a file; None if another program changed it."""
    if foreign.manifest is None:
        return None
    try:
        manifest = Manifest.model_validate_json(foreign.manifest)
        pooling = manifest.origin.pooling or "eos"
        return Artifact(manifest, LearnedToken(manifest.placeholder, foreign.embeddings, pooling))
    except (ValidationError, DTIError):
        return None


def import_token(
    files: Sequence[Path], backbone: Backbone, *, placeholder: str | None = None
) -> Artifact:
    """Return the token in a file, or in diffusers' pair of files, as an artifact for this model.

    placeholder: its name; None for the name in the file, made into a placeholder. A token of ours
    keeps its manifest.

    Raises: as `read_foreign`; ArtifactMismatchError if encoders or dimensions are not those of the
        model; TokenError if the name is not a placeholder.
    """
    contents = {file: _read_bytes(file) for file in files}
    artifact = _read_own(contents)
    if artifact is None:
        foreign = _read_foreign(contents)
        artifact = exported_artifact(foreign) or _artifact_of(
            foreign, contents, backbone, placeholder
        )
    dims = artifact.dims()
    model_dims = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
    if dims != model_dims:
        raise ArtifactMismatchError(
            f"{', '.join(file.name for file in files)} has embeddings of the dimensions {dims}, "
            f"{backbone.name} has {model_dims}; give the model that it was trained on, and both "
            "files of a pair"
        )
    return artifact.renamed(placeholder) if placeholder else artifact


def _artifact_of(
    foreign: ForeignToken,
    contents: Mapping[Path, bytes],
    backbone: Backbone,
    placeholder: str | None,
) -> Artifact:
    name = placeholder or _placeholder(foreign.name, next(iter(contents)))
    token = LearnedToken(name, foreign.embeddings, foreign.pooling if backbone.pools else "eos")
    origin = ImportedOrigin(
        format_name=foreign.format_name,
        pooling=token.pooling if backbone.pools else None,
        files={file.name: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
    )
    return Artifact.of(token, model=backbone.name, fingerprint=backbone.fingerprint, origin=origin)


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _read_foreign(contents: Mapping[Path, bytes]) -> ForeignToken:
    tokens: dict[Path, ForeignToken] = {}
    for path, data in contents.items():
        try:
            tokens[path] = parse_foreign(data)
        except ArtifactFormatError as error:
            raise ArtifactFormatError(f"{str(path)!r}: {error}") from error
    return _join(tokens) if len(tokens) > 1 else next(iter(tokens.values()))


def _join(tokens: Mapping[Path, ForeignToken]) -> ForeignToken:
    """Return the token of diffusers' pair of files."""
    (_, first), (other_path, other) = tokens.items()
    for file, token in tokens.items():
        if list(token.embeddings) != [_FIRST]:
            raise ArtifactFormatError(
                f"{str(file)!r} has rows for {', '.join(token.embeddings)}; each file of a pair "
                "has one encoder's. Give it alone"
            )
    if first.name and other.name and first.name != other.name:
        raise ArtifactFormatError(
            f"{str(other_path)!r} has the token {other.name[:80]!r} and the first file "
            f"{first.name[:80]!r}: they are no pair; give the two files of one token"
        )
    embeddings = {_FIRST: first.embeddings[_FIRST], _SECOND: other.embeddings[_FIRST]}
    return ForeignToken(embeddings, first.name, "diffusers", first.pooling, first.manifest)


def _read_own(contents: Mapping[Path, bytes]) -> Artifact | None:
    """Return the token of ours in a file; None for the files of other programs."""
    for path, data in contents.items():
        try:
            is_own = ARTIFACT_KEY in read_tensor_file(data).metadata
        except ArtifactFormatError:
            continue  # read again as a foreign file, whose errors say more
        if is_own and len(contents) > 1:
            raise ArtifactFormatError(
                f"{str(path)!r} is a token of ours, with the rows of every encoder. Give it alone"
            )
        if is_own:
            try:
                return Artifact.from_bytes(data)
            except ArtifactFormatError as error:
                raise ArtifactFormatError(f"{str(path)!r}: a token of ours, {error}") from error
    return None


def _parse(file: TensorFile) -> ForeignToken:
    """Return the token in a file's content; its keys tell the format."""
    content = file.content
    if isinstance(content, Tensor):
        rows = _rows("the tensor", content)
        return ForeignToken({_encoder_of(rows): rows}, None, "diffusers")
    if not isinstance(content, Mapping):
        raise ArtifactFormatError(f"it holds a {type(content).__name__}, not a token")
    entries = cast(Mapping[Any, Any], content)
    manifest = file.metadata.get(EXPORT_KEY)
    if A1111_KEY in entries:
        return _parse_a1111(entries)
    if outputs := [key for key in entries if str(key).endswith("_out") and len(str(key)) < 20]:
        raise ArtifactFormatError(
            f"{_listed(outputs)} of OneTrainer is an output embedding, which replaces what the "
            "text encoder gives; train it there without 'output embedding'"
        )
    if entries.keys() & _ENCODERS.keys():
        if not entries.keys() <= _ENCODERS.keys():
            raise ArtifactFormatError(
                f"it has the keys {_listed(entries)}; {' and '.join(_ENCODERS)} are supported: it "
                "is of another family of models"
            )
        rows = {name: _rows(key, entries[key]) for key, name in _ENCODERS.items() if key in entries}
        return ForeignToken(rows, None, "comfyui", _pooling_of(file.metadata), manifest)
    if len(entries) != 1:
        raise ArtifactFormatError(
            f"it has the keys {_listed(entries) or 'none'}; a token of one encoder has one key, "
            "one of SDXL has clip_l and clip_g. Save each token as a file of its own"
        )
    ((key, value),) = entries.items()
    rows = _rows(key, value)
    name = key if isinstance(key, str) and key not in _UNNAMED else None
    format_name: ExportFormat = _UNNAMED.get(key, "diffusers")
    pooling = _pooling_of(file.metadata)
    return ForeignToken({_encoder_of(rows): rows}, name, format_name, pooling, manifest)


def _parse_a1111(entries: Mapping[Any, Any]) -> ForeignToken:
    tokens = entries[A1111_KEY]
    if isinstance(tokens, ParameterDictState):
        tokens = tokens.parameters()
    if not isinstance(tokens, Mapping) or len(tokens) != 1:
        count = len(tokens) if isinstance(tokens, Mapping) else 0
        raise ArtifactFormatError(f"it holds {count} tokens; save each as a file of its own")
    ((key, value),) = cast(Mapping[Any, Any], tokens).items()
    rows = _rows(key, value)
    name = entries.get("name")
    return ForeignToken(
        {_encoder_of(rows): rows}, name if isinstance(name, str) and name else None, "a1111"
    )


def _encoder_of(rows: Tensor) -> str:
    """Return the encoder of rows in a file with one: Gemma's width tells it, others are CLIP's."""
    return GEMMA if find_family({GEMMA: rows.shape[-1]}) else _FIRST


def _pooling_of(metadata: Mapping[str, str]) -> Pooling:
    """Return the pooling of the program that trained a token; kohya's pools SDXL at the end."""
    kind = metadata.get("modelspec.architecture", "")
    return "eos" if kind.endswith("/textual-inversion") else "legacy"


def _rows(key: object, value: Any) -> Tensor:
    """Return (n, d) float32 rows; a single vector may be (d,). Raises: ArtifactFormatError."""
    rows = value.detach() if isinstance(value, Tensor) else None
    # Shape first: a view can claim terabytes, and rows of other layouts have no memory to look at.
    is_plain = rows is not None and rows.layout is torch.strided and rows.device.type == "cpu"
    if (
        rows is None
        or not is_plain
        or rows.is_quantized
        or not rows.is_floating_point()
        or rows.ndim not in (1, 2)
        or not rows.numel()
    ):
        shape = tuple(rows.shape) if rows is not None else type(value).__name__
        raise ArtifactFormatError(
            f"{_listed([key])} must be (n, d) numbers, one row per vector, got {shape}"
        )
    count, width = (1, *rows.shape)[-2:]
    if count > _MAX_VECTORS or width > _MAX_WIDTH:
        raise ArtifactFormatError(
            f"{_listed([key])} has {count} vectors of the width {width}; a prompt has room for "
            f"{_MAX_VECTORS} vectors, and no text encoder is wider than {_MAX_WIDTH}"
        )
    # `clone`: a view would keep the whole storage of the file in memory.
    rows = rows.float().reshape(count, width).clone()
    if not bool(rows.isfinite().all()):
        raise ArtifactFormatError(f"{_listed([key])} holds numbers that are not finite")
    for number, norm in enumerate(torch.linalg.vector_norm(rows, dim=-1).tolist(), 1):
        if not 0 < norm < float("inf"):
            what = "all zeros: it was never trained" if norm == 0 else "too long for 32-bit numbers"
            raise ArtifactFormatError(
                f"vector {number} of {count} of {_listed([key])} is {what}; it has no direction"
            )
    return rows


def _listed(keys: Any) -> str:
    """Return the keys of a file for an error, cut to a line; those that are no text by type."""
    texts = [repr(key[:40]) if isinstance(key, str) else type(key).__name__ for key in keys]
    return ", ".join(sorted(texts)[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


def _placeholder(name: str | None, file: Path) -> str:
    """Return a placeholder from the name in the file, or else from the file's own name.

    Many files have `*` or no name at all.

    Raises: TokenError if neither has letters or digits that a placeholder can have.
    """
    for text in (name or "", file.stem):
        if cleaned := re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]:
            return f"<{cleaned}>"
    raise TokenError(
        f"the name {name or file.stem!r} has no letters a-z or digits to make a placeholder of; "
        "give one: --placeholder '<name>'"
    )
