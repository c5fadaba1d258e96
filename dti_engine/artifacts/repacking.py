"""Export token files without torch: the bytes of the tensors, under the keys of another program.

The files are those of `exporters`, byte for byte, except that nothing is written as a pickle. So
the API and the client serve every format where neither torch nor numpy is installed.

A safetensors file has the length of its header in 8 bytes, little-endian; the header, as JSON that
is padded by blanks to a multiple of 8 bytes; and the bytes of the tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dti_engine.artifacts.manifest import ARTIFACT_KEY
from dti_engine.artifacts.programs import EXPORT_KEY, plan_export
from dti_engine.config import PLACEHOLDER, ExportFormat
from dti_engine.errors import ArtifactFormatError

_LENGTH_BYTES = 8
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An (n, d) float32 tensor, as the bytes of a file."""

    shape: tuple[int, int]
    data: bytes


@dataclass(frozen=True, slots=True)
class TokenFile:
    """The content of one of our own files: the manifest as JSON, and encoder -> tensor."""

    manifest: str
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class RepackedToken:
    """The content of each file, the token's name in prompts of the program, and a note or None."""

    contents: Mapping[Path, bytes]
    prompt_name: str
    note: str | None


def repack(data: bytes, path: Path, format_name: ExportFormat) -> RepackedToken:
    """Return the files of a token in the format of another program, the first at `path`.

    data: one of our own files. path: ends in .safetensors. diffusers gets a second file beside it
    for SDXL. Nothing is written yet.

    Raises: ArtifactFormatError if the data is no token file; ArtifactError as `plan_export`, or if
        the path asks for a pickle.
    """
    if path.suffix != ".safetensors":
        raise ArtifactFormatError(
            f"{path.name!r} would be a pickle, which takes torch: end it in .safetensors, which "
            "the programs read too, or have `dti export` write it"
        )
    token = read_token_file(data)
    manifest: dict[str, Any] = json.loads(token.manifest)
    plan = plan_export(
        path,
        format_name,
        str(manifest["placeholder"]),
        {name: tensor.shape for name, tensor in token.tensors.items()},
        pooling=manifest["origin"].get("pooling"),
    )
    contents = {
        file: _write({key: token.tensors[encoder] for encoder, key in keys.items()}, token.manifest)
        for file, keys in plan.files.items()
    }
    return RepackedToken(contents, plan.prompt_name, plan.note)


def read_token_file(data: bytes) -> TokenFile:
    """Return the content of one of our own files. Raises: ArtifactFormatError if it is none."""
    try:
        start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
        header: dict[str, Any] = json.loads(data[_LENGTH_BYTES:start])
        manifest = str(header.pop("__metadata__")[ARTIFACT_KEY]).partition(" ")[2]
        stated: Any = json.loads(manifest)
        if not PLACEHOLDER.fullmatch(stated["placeholder"]) or "origin" not in stated:
            raise ValueError("the manifest has no placeholder or no origin")
        tensors = {name: _read(entry, data[start:]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactFormatError("this is no token file of dti, or it is damaged") from error
    return TokenFile(manifest, tensors)


def _read(entry: Mapping[str, Any], data: bytes) -> StoredTensor:
    """Return a tensor of a header's entry. Raises: ValueError if it contradicts itself."""
    num_vectors, width = entry["shape"]
    start, end = entry["data_offsets"]
    content = data[start:end]
    if num_vectors < 1 or width < 1:
        raise ValueError("a tensor of a token is not empty")
    if entry["dtype"] != "F32" or len(content) != num_vectors * width * _FLOAT_BYTES:
        raise ValueError("the entry of a tensor contradicts its data")
    return StoredTensor((num_vectors, width), content)


def _write(tensors: Mapping[str, StoredTensor], manifest: str) -> bytes:
    """Return the content of a file, in the order and with the blanks of the safetensors library."""
    header: dict[str, Any] = {"__metadata__": {EXPORT_KEY: manifest}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + len(tensor.data)
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    content = b"".join(tensor.data for _, tensor in sorted(tensors.items()))
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + content
