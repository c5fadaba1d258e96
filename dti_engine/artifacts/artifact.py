"""The file of a learned token: what was learned, and everything needed to know what it is good for.

A safetensors file with one (n, d) float32 tensor per text encoder, named like the encoder, and the
`Manifest` as JSON in its header, under a digest of both. Nothing in it is ever executed; what is
not ours, or not as it was written, is refused.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import safetensors.torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from dti_engine.artifacts.manifest import SCHEMA_VERSION, AnyManifest, Manifest, Origin
from dti_engine.artifacts.sealed import read_checked, write_checked
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

_HEADER_KEY = "dti"
_MAX_BYTES = 64 * 2**20  # a token is some KB; more is a mistake, found before it is in memory
_NORM_TOLERANCE = 1e-4  # relative: far above a float32 norm's rounding, far below a real change


@dataclass(frozen=True, eq=False)
class Artifact:
    """A learned token with its manifest.

    Raises: ArtifactFormatError if the two contradict each other.
    """

    manifest: Manifest
    token: LearnedToken

    def __post_init__(self) -> None:
        noted = self.manifest.magnitudes
        found = {name: norms.tolist() for name, norms in self.token.magnitudes().items()}
        if self.token.placeholder != self.manifest.placeholder or found.keys() != noted.keys():
            raise ArtifactFormatError(
                f"the token is {self.token.placeholder} for {sorted(found)}, "
                f"the manifest says {self.manifest.placeholder} for {sorted(noted)}"
            )
        noted_pooling = self.manifest.origin.pooling or self.token.pooling
        if self.token.pooling != noted_pooling:
            raise ArtifactFormatError(
                f"the token was learned with pooling {self.token.pooling!r}, the manifest says "
                f"{noted_pooling!r}"
            )
        for name, norms in found.items():
            if len(norms) != len(noted[name]) or not all(map(_close, norms, noted[name])):
                raise ArtifactFormatError(
                    f"the vectors for {name!r} have the lengths {norms}, "
                    f"the manifest says {list(noted[name])}"
                )

    @classmethod
    def of(cls, token: LearnedToken, *, model: str, fingerprint: str, origin: Origin) -> Self:
        """A new artifact; model and fingerprint say which weights the token belongs to."""
        manifest = Manifest(
            placeholder=token.placeholder,
            model=model,
            model_fingerprint=fingerprint,
            magnitudes={name: tuple(norms.tolist()) for name, norms in token.magnitudes().items()},
            origin=origin,
        )
        return cls(manifest, token)

    def to_bytes(self) -> bytes:
        """The file's content; the same artifact always gives the same bytes."""
        rows = {
            name: each.detach().contiguous().clone() for name, each in self.token.embeddings.items()
        }
        return write_checked(_HEADER_KEY, self.manifest.model_dump_json(), rows)

    def sha256(self) -> str:
        """Of the file's content, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def origin(self) -> dict[str, str]:
        """Which token this is, for the settings of an image: the digest finds its file again."""
        return {"placeholder": self.manifest.placeholder, "sha256": self.sha256()}

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The artifact in a file's content.

        Raises: ArtifactFormatError if it is none, is damaged or newer, or contradicts itself.
        """
        if len(data) > _MAX_BYTES:
            raise ArtifactFormatError(f"larger than {_MAX_BYTES} bytes, so not an artifact")
        try:
            tensors = safetensors.torch.load(data)
            manifest = _read_manifest(data, tensors)
            pooling = manifest.origin.pooling or "eos"
            return cls(manifest, LearnedToken(manifest.placeholder, tensors, pooling))
        except SafetensorError as error:
            raise ArtifactFormatError(f"not a safetensors file, or damaged: {error}") from error
        except ValidationError as error:
            raise ArtifactFormatError(f"bad manifest: {explain(error, Manifest)}") from error
        except (ConfigurationError, TokenError) as error:
            raise ArtifactFormatError(str(error)) from error

    def save(self, path: Path) -> None:
        """Write the file. Others see the old one or the new one, never a part.

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
        """A warning if the token was made with other weights than these, None if all fits.

        dims: encoder -> d of the backbone; fingerprint: the backbone's.

        Raises: ArtifactMismatchError if encoders or dimensions differ, so that the token cannot be
            used at all; with `same_weights` also where the weights differ.
        """
        made_for = {name: rows.shape[-1] for name, rows in self.token.embeddings.items()}
        origin = f"{self.manifest.placeholder} was made with {self.manifest.model!r}"
        if made_for != dict(dims):
            raise ArtifactMismatchError(
                f"{origin}, whose encoders have the dimensions {made_for}, not {dict(dims)}; "
                "use it with that backbone, or train it again with this one"
            )
        if fingerprint == self.manifest.model_fingerprint:
            return None
        warning = (
            f"{origin}, whose vocabulary has other embeddings: images may not show the subject"
        )
        if same_weights:
            raise ArtifactMismatchError(warning)
        return warning


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_NORM_TOLERANCE)


def _read_manifest(data: bytes, tensors: Mapping[str, Tensor]) -> Manifest:
    """The manifest in a safetensors file that was found valid, if the file is as it was written."""
    found = read_checked(_HEADER_KEY, data, tensors)
    if found is None:
        raise ArtifactFormatError("it has no manifest, so it was not saved as an artifact")
    version = AnyManifest.model_validate_json(found.text).schema_version
    if version > SCHEMA_VERSION:
        raise ArtifactFormatError(
            f"its schema is {version}, this engine reads up to {SCHEMA_VERSION}; update the engine"
        )
    if not found.is_intact:
        raise ArtifactFormatError(
            "damaged: its content has another digest than it was written with"
        )
    return Manifest.model_validate_json(found.text)
