"""Other programs' tokens as artifacts of ours."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from dti_engine.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactMismatchError
from dti_engine.formats.reading import read_foreign
from dti_engine.manifest import Imported
from dti_engine.tokens import LearnedToken


def import_token(
    files: Sequence[Path], backbone: Backbone, *, placeholder: str | None = None
) -> Artifact:
    """The token in a file, or in diffusers' pair of files, as one for this backbone.

    placeholder: its name; if None, the one in the file, made a placeholder.

    Raises: as `reading.read_foreign`; ArtifactMismatchError if encoders or dimensions are not those
        of the backbone; TokenError if the name is none.
    """
    found = read_foreign(*files)
    dims = {name: rows.shape[-1] for name, rows in found.embeddings.items()}
    wanted = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
    if dims != wanted:
        raise ArtifactMismatchError(
            f"{', '.join(file.name for file in files)} has embeddings of the dimensions {dims}, "
            f"{backbone.name} wants {wanted}; give the model that it was learned on, and both "
            "files of a pair"
        )
    name = placeholder or _placeholder(found.name, files[0])
    # Programs that learn tokens add them to the vocabulary, so they pool at them.
    token = LearnedToken(name, found.embeddings, "legacy" if backbone.pools else "eos")
    origin = Imported(
        format_name=found.format_name,
        pooling=token.pooling if backbone.pools else None,
        files={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )
    return Artifact.of(
        token, backbone=backbone.name, fingerprint=backbone.fingerprint, origin=origin
    )


def _placeholder(name: str | None, file: Path) -> str:
    """`*` and nothing are what many files say; the file's own name is then the better one."""
    for text in (name or "", file.stem):
        if cleaned := re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]:
            return f"<{cleaned}>"
    return f"<{file.stem}>"
