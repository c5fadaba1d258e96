"""Export tokens to the file formats of other programs; `programs` says what each one takes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.programs import A1111_KEY, EXPORT_KEY, plan_export
from dti_engine.config import ExportFormat
from dti_engine.files import atomic_write


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

    Raises: ArtifactError if the program takes no tokens of this model, would not find the file, or
        cannot say its name.
    """
    token = artifact.token
    shapes = {name: (len(rows), rows.shape[-1]) for name, rows in token.embeddings.items()}
    plan = plan_export(
        path,
        format_name,
        token.placeholder,
        shapes,
        pooling=artifact.manifest.origin.pooling,
    )
    to_bytes = _a1111_pickle if plan.is_pickle else _safetensors
    contents = {file: to_bytes(artifact, file, keys) for file, keys in plan.files.items()}
    return Export(contents, plan.prompt_name, plan.note)


def _safetensors(artifact: Artifact, path: Path, keys: Mapping[str, str]) -> bytes:
    # Rows may be views of one table, as in `Artifact.to_bytes`.
    rows = artifact.token.embeddings
    plain = {key: rows[encoder].contiguous().clone() for encoder, key in keys.items()}
    return safetensors.torch.save(plain, {EXPORT_KEY: artifact.manifest.model_dump_json()})


def _a1111_pickle(artifact: Artifact, path: Path, keys: Mapping[str, str]) -> bytes:
    (encoder,) = keys
    training = artifact.manifest.training
    content = {
        "string_to_token": {"*": 265},  # as A1111 writes it: the id of "*" in CLIP's vocabulary
        A1111_KEY: {"*": artifact.token.embeddings[encoder].clone()},
        "name": path.stem,
        "step": training.steps_done if training else 0,
        "sd_checkpoint": None,
        "sd_checkpoint_name": artifact.manifest.model,
    }
    data = io.BytesIO()
    torch.save(content, data)
    return data.getvalue()
