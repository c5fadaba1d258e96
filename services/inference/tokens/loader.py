"""Tokens as they are read from the ledger: checked, for one model, or refused by name.

Tokens by a client's own names of subjects: the newest that there is.
"""

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
from services.caching.ttl_cache import TTLCache
from services.errors import (
    DamagedRecordError,
    DeletedError,
    StorageError,
    UnavailableError,
    UnknownJobError,
)
from services.ledger import aliases
from services.ledger.ids import check_tenant, is_token
from services.ledger.ledger import Ledger
from services.ledger.queries import StoredResult, read_token, stands

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
class LoadedToken:
    """A token that fits, and the version of its object."""

    learned: LearnedToken
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class TokenLoader:
    """Reads one model's tokens; keeps none. What it raises names tokens, never keys of a store."""

    ledger: Ledger
    fit: Fit

    def fetch(self, tenant: str, token: str) -> LoadedToken:
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
            artifact.check_compatibility(self.fit.dims, self.fit.fingerprint, same_weights=True)
        except ArtifactMismatchError as error:
            raise ArtifactMismatchError(
                f"token {token} was made with {artifact.manifest.model!r}, whose weights are "
                "not those that generate here: ask for images of that model, or train it again "
                "with this one"
            ) from error
        return LoadedToken(artifact.token, made.result.sha256, made.etag)

    def stands(self, tenant: str, token: str, etag: str) -> bool:
        """Whether it is as it was fetched, by one request. Raises: UnavailableError."""
        try:
            return stands(self.ledger, tenant, token, etag)
        except StorageError as error:
            raise _unavailable(token, error) from error

    def _read(self, tenant: str, token: str) -> StoredResult:
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


GOOD_FOR = 5.0
"""Seconds that a name stands for the same token, so that a newly learned one is seen soon."""

_PATIENCE = 100
"""Hints of one name that are looked at: most lead to a token, others to one that was deleted."""

_ENTRIES = 100_000


class AliasLookup:
    """What they stand for, remembered for seconds. Safe to use from many threads."""

    def __init__(
        self,
        ledger: Ledger,
        look: Callable[[str, str], object],
        *,
        in_trouble: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` raises what is wrong with a tenant's token, by its id. While the store does not
        answer, what it said `in_trouble` seconds ago still holds.
        """
        self._store, self._look = ledger.store, look
        self._known: TTLCache[str] = TTLCache(
            self._read, seconds=GOOD_FOR, in_trouble=in_trouble, entries=_ENTRIES, clock=clock
        )

    def newest(self, tenant: str, alias: str, *, anew: bool = False) -> str:
        """Return the id of a subject's newest token that this model can use; `anew` asks the store.

        Raises: UnknownJobError if there is none; ArtifactMismatchError if all are of other models;
            what is wrong with the newest, if it is damaged; UnavailableError, InvalidIdError.
        """
        name = f"{check_tenant(tenant)}/{alias}"
        found = self._read(name) if anew else self._known.get(name).value
        if found is None:
            raise UnknownJobError(
                f"{tenant} has no token of a subject {alias!r}: give the id of a token, or the "
                "name of a subject that was learned"
            )
        return found

    def _read(self, name: str) -> str | None:
        tenant, _, alias = name.partition("/")
        foreign: ArtifactMismatchError | None = None
        try:
            for hint in islice(aliases.tokens(self._store, tenant, alias), _PATIENCE):
                if not is_token(hint):
                    continue
                try:
                    self._look(tenant, hint)
                    return hint
                except (DeletedError, UnknownJobError):
                    continue
                except ArtifactMismatchError as error:
                    foreign = foreign or error
        except UnavailableError as error:
            raise UnavailableError(
                f"tokens of {alias!r} cannot be looked up, because the store does not answer: ask "
                "again later"
            ) from error
        if foreign:
            raise foreign
        return None
