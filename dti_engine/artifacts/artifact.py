"""Artifact: a learned token with its manifest, as a safetensors file.

The file has one (n, d) float32 tensor per text encoder, named like the encoder, and the `Manifest`
as JSON in its header, with a checksum of both. Nothing in it is ever executed; a foreign or damaged
file is rejected.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from torch import Tensor

from dti_engine.artifacts.manifest import (
    ARTIFACT_KEY,
    SCHEMA_VERSION,
    AnyManifest,
    Manifest,
    Origin,
)
from dti_engine.artifacts.sealed import read_checked, write_checked
from dti_engine.artifacts.tensor_files import read_safetensors
from dti_engine.config import explain
from dti_engine.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactMismatchError,
    ConfigurationError,
    TokenError,
)
from dti_engine.files import atomic_write
from dti_engine.text.tokens import LearnedToken

_MAX_BYTES = 64 * 2**20  # a token has some KB; a larger file is rejected before it is read
_NORM_TOLERANCE = 1e-4  # relative: far above a float32 norm's rounding, far below a real change


@dataclass(frozen=True, eq=False)
class Artifact:
    """A learned token with its manifest.

    Raises: ArtifactFormatError if they contradict each other.
    """

    manifest: Manifest
    token: LearnedToken

    def __post_init__(self) -> None:
        # Checked on every way to an artifact, not only when a file is read: a manifest that
        # describes other vectors must not even exist in memory, where it could be saved.
        expected = self.manifest.magnitudes
        actual = {name: norms.tolist() for name, norms in self.token.magnitudes().items()}
        if self.token.placeholder != self.manifest.placeholder or actual.keys() != expected.keys():
            raise ArtifactFormatError(
                f"the token is {self.token.placeholder} for {sorted(actual)}, "
                f"the manifest says {self.manifest.placeholder} for {sorted(expected)}"
            )
        pooling = self.manifest.origin.pooling or self.token.pooling
        if self.token.pooling != pooling:
            raise ArtifactFormatError(
                f"the token was trained with pooling {self.token.pooling!r}, the manifest says "
                f"{pooling!r}"
            )
        for name, norms in actual.items():
            if 0 in norms:
                raise ArtifactFormatError(
                    f"vector {norms.index(0) + 1} of {len(norms)} for {name!r} is all zeros, as an "
                    "embedding that was never trained: it has no direction; train it again"
                )
            if len(norms) != len(expected[name]) or not all(map(_is_close, norms, expected[name])):
                raise ArtifactFormatError(
                    f"the vectors for {name!r} have the lengths {norms}, "
                    f"the manifest says {list(expected[name])}"
                )

    @classmethod
    def of(cls, token: LearnedToken, *, model: str, fingerprint: str, origin: Origin) -> Self:
        """Return a new artifact; model and fingerprint name the weights that it belongs to."""
        manifest = Manifest(
            placeholder=token.placeholder,
            model=model,
            model_fingerprint=fingerprint,
            magnitudes={name: tuple(norms.tolist()) for name, norms in token.magnitudes().items()},
            origin=origin,
        )
        return cls(manifest, token)

    def to_bytes(self) -> bytes:
        """Return the file's content; the same artifact always gives the same bytes."""
        # Rows may be views of one training table; safetensors stores no shared memory.
        rows = {
            name: rows.detach().contiguous().clone() for name, rows in self.token.embeddings.items()
        }
        return write_checked(ARTIFACT_KEY, self.manifest.model_dump_json(), rows)

    def sha256(self) -> str:
        """Return the SHA-256 of the file's content, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def origin(self) -> dict[str, str]:
        """Return name and digest of the token, for the settings stored in an image."""
        return {"placeholder": self.manifest.placeholder, "sha256": self.sha256()}

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a file's content.

        Raises: ArtifactFormatError if it is no artifact, damaged, newer or inconsistent.
        """
        if len(data) > _MAX_BYTES:
            raise ArtifactFormatError(f"larger than {_MAX_BYTES} bytes, so not an artifact")
        try:
            tensors = read_safetensors(data).content
            manifest = _read_manifest(data, tensors)
            # Models without a pooled embedding store no pooling.
            pooling = manifest.origin.pooling or "eos"
            return cls(manifest, LearnedToken(manifest.placeholder, tensors, pooling))
        except ValidationError as error:
            raise ArtifactFormatError(f"bad manifest: {explain(error, Manifest)}") from error
        except (ConfigurationError, TokenError) as error:
            raise ArtifactFormatError(str(error)) from error

    def dims(self) -> dict[str, int]:
        """Return encoder -> dimension d of its rows."""
        return {name: rows.shape[-1] for name, rows in self.token.embeddings.items()}

    def renamed(self, placeholder: str) -> Self:
        """Return the same token under another placeholder. Raises: TokenError."""
        manifest = self.manifest.model_copy(update={"placeholder": placeholder})
        return replace(self, manifest=manifest, token=replace(self.token, placeholder=placeholder))

    def is_same_token(self, data: bytes) -> bool:
        """Return whether a file's content is this token, whatever time and version made it."""
        try:
            other = Artifact.from_bytes(data)
        except ArtifactFormatError:
            return False
        of_making = {"created", "engine_version"}
        manifests = [each.manifest.model_dump(exclude=of_making) for each in (self, other)]
        rows = other.token.embeddings
        return manifests[0] == manifests[1] and all(
            tensor.equal(rows[name]) for name, tensor in self.token.embeddings.items()
        )

    def save(self, path: Path) -> None:
        """Write the file atomically.

        Raises: OutputError if it cannot be written.
        """
        atomic_write(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises: ArtifactError if it cannot be read; ArtifactFormatError as `from_bytes`.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            return cls.from_bytes(data)
        except OSError as error:
            raise ArtifactError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except ArtifactFormatError as error:
            raise ArtifactFormatError(f"{str(path)!r}: {error}") from error

    def check_compatibility(
        self, dims: Mapping[str, int], fingerprint: str, *, same_weights: bool = False
    ) -> str | None:
        """Return a warning if the token was made with other weights than these; None if it fits.

        dims: encoder -> d of the model; fingerprint: that of the model.

        Raises: ArtifactMismatchError if encoders or dimensions differ, so that the token cannot be
            used at all; with `same_weights` also if the weights differ.
        """
        token_dims = self.dims()
        origin = f"{self.manifest.placeholder} was made with {self.manifest.model!r}"
        if token_dims != dict(dims):
            raise ArtifactMismatchError(
                f"{origin}, whose encoders have the dimensions {token_dims}, not {dict(dims)}; "
                "use it with that model, or train it again with this one"
            )
        if fingerprint == self.manifest.model_fingerprint:
            return None
        warning = (
            f"{origin}, whose vocabulary has other embeddings: images may not show the subject"
        )
        if same_weights:
            raise ArtifactMismatchError(warning)
        return warning


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_NORM_TOLERANCE)


def _read_manifest(data: bytes, tensors: Mapping[str, Tensor]) -> Manifest:
    """Return the manifest in a valid safetensors file. Raises: ArtifactFormatError."""
    checked = read_checked(ARTIFACT_KEY, data, tensors)
    if checked is None:
        raise ArtifactFormatError(
            "it has no manifest, so it was not saved as an artifact; if another program saved it, "
            "`dti import` makes a token of it"
        )
    # The version comes first: of a newer file neither checksum nor fields are known.
    version = AnyManifest.model_validate_json(checked.text).schema_version
    if version > SCHEMA_VERSION:
        raise ArtifactFormatError(
            f"its schema is {version}, this engine reads up to {SCHEMA_VERSION}; update the engine"
        )
    if not checked.is_intact:
        raise ArtifactFormatError("damaged: its content does not match its checksum")
    return Manifest.model_validate_json(checked.text)
