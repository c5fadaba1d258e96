"""Writes that end in knowing: of a lost answer it is found out whether it was applied."""

from services.errors import (
    AlreadyExistsError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
)
from services.storage.interface import Store


def create_once(store: Store, key: str, body: bytes) -> str | None:
    """The ETag of these bytes, created under `key`. None: others stand there.

    `body` has a nonce. Raises: OutcomeUnknownError if the store does not say even now, and
    UnavailableError if it certainly was not written.
    """
    for last in (False, False, True):
        try:
            return store.create(key, body)
        except AlreadyExistsError:
            return None
        except OutcomeUnknownError:
            try:
                there = store.read(key)
            except NotFoundError:
                # Not applied yet. If it still is later, the next one meets its own bytes.
                if last:
                    raise
            else:
                return there.head.etag if there.body == body else None
    return None


def swap(store: Store, key: str, body: bytes, expected: str) -> str | None:
    """The ETag of these bytes, written on top of the version `expected`. None: another stands
    there, or no object.

    `body` has a nonce. Raises: OutcomeUnknownError and UnavailableError, as `create_once` does.
    """
    for last in (False, False, True):
        try:
            return store.replace(key, body, expected=expected)
        except (PreconditionFailedError, NotFoundError):
            return None
        except OutcomeUnknownError:
            try:
                there = store.read(key)
            except NotFoundError:
                return None
            if there.body == body:
                return there.head.etag
            if there.head.etag != expected:
                return None
            if last:
                raise
    return None
