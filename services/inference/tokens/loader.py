"""Tokens in memory: loaded from the ledger, verified to fit the model, and found by aliases."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactFormatError, ArtifactMismatchError
from dti_engine.text.tokens import LearnedToken
from services import logs
from services.caching.stale_while_error import StaleWhileErrorCache
from services.errors import (
    DamagedRecordError,
    DeletedError,
    StorageError,
    UnavailableError,
    UnknownJobError,
)
from services.ledger import aliases
from services.ledger.ids import check_tenant_name, is_token_id
from services.ledger.ledger import Ledger
from services.ledger.queries import StoredResult, is_current, read_token

Key = tuple[str, str]
"""A tenant and a token id."""

OVERHEAD_BYTES = 4096
"""Memory of a token besides its rows, as the benchmark of the token cache measures it."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedToken:
    """A token that was found and fits the model.

    `learned` stays the same object while the token is cached or in use, so that prompt caches can
    compare tokens by identity.
    """

    token: str
    sha256: str
    learned: LearnedToken

    @property
    def origin(self) -> dict[str, str]:
        """Return which token this is, in the form of `Artifact.origin`."""
        return {"placeholder": self.learned.placeholder, "sha256": self.sha256}


def num_bytes_of(token: LearnedToken) -> int:
    """Return the memory use of a token."""
    return OVERHEAD_BYTES + sum(4 * rows.numel() for rows in token.embeddings.values())


log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """The properties of a model that a token must match."""

    dims: Mapping[str, int]
    """The dimension of each text encoder."""
    fingerprint: str
    """The fingerprint of the model's weights."""

    @classmethod
    def of(cls, backbone: Backbone) -> Self:
        """Return the signature of a loaded model."""
        dims = {name: encoder.dim for name, encoder in backbone.text_encoders.items()}
        return cls(dims, backbone.fingerprint)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedToken:
    """A verified token, and the version (ETag) of the object that holds it."""

    learned: LearnedToken
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class TokenLoader:
    """Loads the tokens of one model. Its errors name tokens, never keys of the store."""

    ledger: Ledger
    signature: ModelSignature

    def load(self, tenant: str, token: str) -> LoadedToken:
        """Return a token, which takes one request to the store.

        Raises:
            InvalidIdError: `token` is not the id of a token.
            UnknownJobError, DeletedError: There is no such token, or it was deleted.
            DamagedRecordError, ArtifactFormatError: Its bytes are damaged, or never were a token.
            ArtifactMismatchError: It was trained with another model.
            UnavailableError: The store does not answer.
        """
        result = self._read(tenant, token)
        try:
            artifact = Artifact.from_bytes(result.payload)
        except ArtifactFormatError as error:
            raise ArtifactFormatError(
                f"token {token} cannot be used: {error}; unless this engine is too old for it, "
                "train it again"
            ) from error
        try:
            artifact.check_compatibility(
                self.signature.dims, self.signature.fingerprint, same_weights=True
            )
        except ArtifactMismatchError as error:
            raise ArtifactMismatchError(
                f"token {token} was made with {artifact.manifest.model!r}, whose weights are "
                "not those of this engine: ask for images of that model, or train it again with "
                "this one"
            ) from error
        return LoadedToken(artifact.token, result.result.sha256, result.etag)

    def is_unchanged(self, tenant: str, token: str, etag: str) -> bool:
        """Return whether a token still has this version, which takes one request to the store.

        Raises UnavailableError if the store does not answer.
        """
        try:
            return is_current(self.ledger, tenant, token, etag)
        except StorageError as error:
            raise _unavailable(token, error) from error

    def _read(self, tenant: str, token: str) -> StoredResult:
        try:
            return read_token(self.ledger, tenant, token)
        except DamagedRecordError as error:
            log.error("token damaged", tenant=tenant, token=token, reason=str(error))
            raise DamagedRecordError(
                f"token {token} is not what was committed: train it again"
            ) from error
        except StorageError as error:
            raise _unavailable(token, error) from error


def _unavailable(token: str, error: StorageError) -> UnavailableError:
    if not isinstance(error, UnavailableError):
        # An error such as denied access does not pass by itself: the operator has to see it.
        log.error("store failed", token=token, reason=str(error))
    return UnavailableError(
        f"token {token} cannot be looked up, because the store does not answer: ask again later"
    )


ALIAS_TTL_S = 5.0
"""How long an alias stands for the same token: new tokens must be seen soon."""

_MAX_CANDIDATES = 100
"""Index entries of an alias that are tried, newest first. Entries of deleted tokens are skipped."""

_MAX_ALIASES = 100_000


class AliasLookup:
    """Finds the newest token of a subject by its alias. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        find: Callable[[str, str], object],
        *,
        max_stale_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a lookup.

        Args:
            ledger: The ledger whose index of aliases to read.
            find: Raises the error of a token that cannot be used, given its tenant and its id.
            max_stale_s: How long a result is used while the store does not answer.
            clock: Returns the time in seconds.
        """
        self._store, self._find = ledger.store, find
        self._newest: StaleWhileErrorCache[str] = StaleWhileErrorCache(
            self._read,
            ttl_s=ALIAS_TTL_S,
            max_stale_s=max_stale_s,
            max_entries=_MAX_ALIASES,
            clock=clock,
        )

    def newest(self, tenant: str, alias: str, *, refresh: bool = False) -> str:
        """Return the id of the newest token of a subject that fits the model.

        Args:
            tenant: The tenant whose subject it is.
            alias: The client's own name of the subject.
            refresh: Read the index even if the cache has an answer.

        Raises:
            UnknownJobError: The subject has no token.
            ArtifactMismatchError: All tokens of the subject are of other models.
            DTIError: The error of the newest token, if it is damaged.
            UnavailableError, InvalidIdError: As in `TokenLoader.load`.
        """
        name = f"{check_tenant_name(tenant)}/{alias}"
        token = self._read(name) if refresh else self._newest.get(name).value
        if token is None:
            raise UnknownJobError(
                f"{tenant} has no token of a subject {alias!r}: give the id of a token, or the "
                "name of a subject that was trained"
            )
        return token

    def forget_old(self) -> None:
        """Forget aliases that have not been looked up for a while."""
        self._newest.forget_old()

    def _read(self, name: str) -> str | None:
        tenant, _, alias = name.partition("/")
        mismatch: ArtifactMismatchError | None = None
        try:
            for token in islice(aliases.find_tokens(self._store, tenant, alias), _MAX_CANDIDATES):
                if not is_token_id(token):
                    continue
                try:
                    self._find(tenant, token)
                    return token
                except (DeletedError, UnknownJobError):
                    # The index is written before the token is committed and is not cleaned up at
                    # its deletion.
                    continue
                except ArtifactMismatchError as error:
                    # An older token of the subject may fit; if none does, the newest is reported.
                    mismatch = mismatch or error
        except UnavailableError as error:
            raise UnavailableError(
                f"tokens of {alias!r} cannot be looked up, because the store does not answer: ask "
                "again later"
            ) from error
        if mismatch:
            raise mismatch
        return None
