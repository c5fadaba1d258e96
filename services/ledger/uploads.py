"""What tenants upload, under its own SHA-256: so nobody can change what a job was told to learn,
and the same bytes lie there once. Each tenant's lie apart, so none learns what another has.
"""

import hashlib
from contextlib import suppress

from services.contracts.training import Digest
from services.errors import DamagedUploadError, LargeUploadError, NotFoundError, UnknownUploadError
from services.ledger.keys import tenant_folder
from services.storage.interface import Head, Store


def folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}uploads/"


def key(tenant: str, sha256: Digest) -> str:
    """Where these bytes lie, or are to be uploaded to."""
    return f"{folder(tenant)}{sha256}"


def find(store: Store, tenant: str, sha256: Digest) -> Head | None:
    """Whether something lies there; what, is seen when it is read."""
    with suppress(NotFoundError):
        return store.head(key(tenant, sha256))
    return None


def write(store: Store, tenant: str, sha256: Digest, body: bytes) -> None:
    """For stores that clients cannot upload to. Raises: DamagedUploadError: nothing is written."""
    _check(sha256, body)
    # Whoever writes there writes the same bytes.
    store.put(key(tenant, sha256), body)


def read(store: Store, tenant: str, sha256: Digest, *, max_bytes: int) -> bytes:
    """The bytes that were asked for, and no others; what has more than `most` is not fetched.

    Raises: UnknownUploadError if nothing lies there; LargeUploadError; DamagedUploadError if other
    bytes do.
    """
    try:
        if (size := store.head(key(tenant, sha256)).size) > max_bytes:
            raise LargeUploadError(
                f"upload {sha256} has {size} bytes, and at most {max_bytes} are allowed here: "
                "make it smaller, or divide it"
            )
        body = store.read(key(tenant, sha256)).body
    except NotFoundError as error:
        raise UnknownUploadError(
            f"nothing was uploaded as {sha256}, or it was removed: upload it, and submit it again"
        ) from error
    _check(sha256, body)
    return body


def _check(sha256: Digest, body: bytes) -> None:
    if (found := hashlib.sha256(body).hexdigest()) != sha256:
        raise DamagedUploadError(
            f"the {len(body)} bytes that were uploaded as {sha256} have the digest {found}: "
            "upload what was meant"
        )
