"""Export tokens to the file formats of other programs."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.config import ExportFormat
from dti_engine.errors import ArtifactError
from dti_engine.files import atomic_write

# diffusers' names of CLIP encoders -> the keys of files with both.
CLIP_KEYS: Mapping[str, str] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
SINGLE_KEY = "emb_params"  # in files with one encoder, where the file's name is the token's name
A1111_KEY = "string_to_param"
EXPORT_KEY = "dti_export"  # in a safetensors header: our manifest, for information


_EOS_NOTE = (
    "diffusers would pool a prompt at the token; this one was trained with pooling at the end: "
    "set pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id"
)


@dataclass(frozen=True, slots=True)
class Export:
    """The content of each file, and the token's name in prompts of the other program.

    note: what the user has to do there; None if nothing.
    """

    contents: Mapping[Path, bytes]
    prompt_name: str
    note: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The paths of the files."""
        return tuple(self.contents)

    def save(self) -> None:
        """Write the files. Raises: OutputError if one cannot be written."""
        for path, content in self.contents.items():
            atomic_write(path, content)


def export(artifact: Artifact, path: Path, format_name: ExportFormat) -> Export:
    """Write the files of `convert`.

    Raises: as `convert`; OutputError if a file cannot be written.
    """
    exported = convert(artifact, path, format_name)
    exported.save()
    return exported


def convert(artifact: Artifact, path: Path, format_name: ExportFormat) -> Export:
    """Return the files of the token in the format of another program, the first at `path`.

    diffusers gets a second file beside it for SDXL. A token of several vectors has one name in each
    of these programs. Nothing is written yet.

    Raises: ArtifactError if the format does not support the token's text encoders or the file's
        suffix.
    """
    return _WRITERS[format_name](artifact, path)


def _diffusers(artifact: Artifact, path: Path) -> Export:
    """Write a file per encoder, each for one call of `load_textual_inversion`."""
    placeholder, rows = artifact.token.placeholder, artifact.token.embeddings
    _require_suffix(path, ".safetensors")
    files = [path, path.with_stem(f"{path.stem}_2")][: len(_clip_rows(artifact, "diffusers"))]
    contents = {
        file: _safetensors(artifact, {placeholder: rows[name]})
        for file, name in zip(files, CLIP_KEYS, strict=False)
    }
    is_eos = artifact.manifest.origin.pooling == "eos"
    return Export(contents, placeholder, _EOS_NOTE if is_eos else None)


def _comfyui(artifact: Artifact, path: Path) -> Export:
    _require_suffix(path, ".safetensors")
    content = _safetensors(artifact, _by_key(artifact, "comfyui"))
    return Export({path: content}, f"embedding:{path.stem}")


def _a1111(artifact: Artifact, path: Path) -> Export:
    by_key, training = _by_key(artifact, "a1111"), artifact.manifest.training
    if SINGLE_KEY not in by_key:
        _require_suffix(path, ".safetensors")
        return Export({path: _safetensors(artifact, by_key)}, path.stem)
    _require_suffix(path, ".pt")
    content = {
        "string_to_token": {"*": 265},  # as A1111 writes it: the id of "*" in CLIP's vocabulary
        A1111_KEY: {"*": by_key[SINGLE_KEY].clone()},
        "name": path.stem,
        "step": training.steps_done if training else 0,
        "sd_checkpoint": None,
        "sd_checkpoint_name": artifact.manifest.model,
    }
    data = io.BytesIO()
    torch.save(content, data)
    return Export({path: data.getvalue()}, path.stem)


_WRITERS: Mapping[ExportFormat, Callable[[Artifact, Path], Export]] = {
    "diffusers": _diffusers,
    "comfyui": _comfyui,
    "a1111": _a1111,
}


def _clip_rows(artifact: Artifact, program: str) -> dict[str, Tensor]:
    """Return clip_l and clip_g -> rows. Raises: ArtifactError if there are other encoders."""
    rows = artifact.token.embeddings
    if set(rows) not in ({next(iter(CLIP_KEYS))}, set(CLIP_KEYS)):
        raise ArtifactError(
            f"{artifact.token.placeholder} has rows for {', '.join(rows)}; {program} has a format "
            "for the CLIP encoders of Stable Diffusion 1, 2 and XL only. Keep our own file"
        )
    return {CLIP_KEYS[name]: embeddings for name, embeddings in rows.items()}


def _by_key(artifact: Artifact, program: str) -> dict[str, Tensor]:
    rows = _clip_rows(artifact, program)
    return {SINGLE_KEY: rows["clip_l"]} if len(rows) == 1 else rows


def _safetensors(artifact: Artifact, tensors: Mapping[str, Tensor]) -> bytes:
    # Rows may be views of one table, as in `Artifact.to_bytes`.
    plain = {name: rows.contiguous().clone() for name, rows in tensors.items()}
    return safetensors.torch.save(plain, {EXPORT_KEY: artifact.manifest.model_dump_json()})


def _require_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise ArtifactError(f"{str(path)!r} would not be found by the program; end it in {suffix}")
