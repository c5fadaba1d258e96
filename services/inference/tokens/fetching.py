"""Tokens as they are read from the ledger: checked, for one model, or refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from dti_engine.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactFormatError, ArtifactMismatchError
from dti_engine.tokens import LearnedToken
from services import logs
from services.errors import DamagedRecordError, StorageError, UnavailableError
from services.ledger.ledger import Ledger
from services.ledger.reading import Made, read_token, stands

log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Fit:
    """Which tokens a model takes: encoder -> dimension, and the fingerprint of its weights."""

    dims: Mapping[str, int]
    fingerprint: str

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        dims = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
        return cls(dims, backbone.fingerprint)


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """A token that fits, and the version of its object."""

    learned: LearnedToken
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Reads one model's tokens; keeps none. What it raises names tokens, never keys of a store."""

    ledger: Ledger
    fit: Fit

    def fetch(self, tenant: str, token: str) -> Fetched:
        """A token, by one request.

        Raises: InvalidIdError, UnknownJobError, DeletedError; DamagedRecordError and
            ArtifactFormatError for bytes that are no token any more, or never were;
            ArtifactMismatchError for a token of other weights; UnavailableError.
        """
        made = self._read(tenant, token)
        try:
            artifact = Artifact.from_bytes(made.payload)
        except ArtifactFormatError as error:
            raise ArtifactFormatError(
                f"token {token} cannot be used: {error}; unless this engine is too old for it, "
                "train it anew"
            ) from error
        try:
            artifact.check_fits(self.fit.dims, self.fit.fingerprint, same_weights=True)
        except ArtifactMismatchError as error:
            raise ArtifactMismatchError(
                f"token {token} was made with {artifact.manifest.backbone!r}, whose weights are "
                "not those that paint here: ask for pictures of that model, or train it again "
                "with this one"
            ) from error
        return Fetched(artifact.token, made.result.sha256, made.etag)

    def stands(self, tenant: str, token: str, etag: str) -> bool:
        """Whether it is as it was fetched, by one request. Raises: UnavailableError."""
        try:
            return stands(self.ledger, tenant, token, etag)
        except StorageError as error:
            raise _unavailable(token, error) from error

    def _read(self, tenant: str, token: str) -> Made:
        try:
            return read_token(self.ledger, tenant, token)
        except DamagedRecordError as error:
            log.error("token damaged", tenant=tenant, token=token, reason=str(error))
            raise DamagedRecordError(
                f"token {token} is not what was committed: train it anew"
            ) from error
        except StorageError as error:
            raise _unavailable(token, error) from error


def _unavailable(token: str, error: StorageError) -> UnavailableError:
    if not isinstance(error, UnavailableError):  # Such as denied: nothing that will pass by itself.
        log.error("store failed", token=token, reason=str(error))
    return UnavailableError(
        f"token {token} cannot be looked up, because the store does not answer: ask again later"
    )
