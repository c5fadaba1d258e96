"""Content-addressed uploads of tenants, each under its own SHA-256.

The images of a job can thus not be changed after its submission, and equal bytes are stored once.
Each tenant has a folder of its own, so that none learns what another has uploaded.
"""

import hashlib
from contextlib import suppress

from services.contracts.training import Digest
from services.errors import DamagedUploadError, LargeUploadError, NotFoundError, UnknownUploadError
from services.ledger.keys import tenant_folder
from services.storage.interface import Head, Store


def folder(tenant: str) -> str:
    """Return the prefix of a tenant's uploads."""
    return f"{tenant_folder(tenant)}uploads/"


def key(tenant: str, sha256: Digest) -> str:
    """Return the key of an upload."""
    return f"{folder(tenant)}{sha256}"


def find(store: Store, tenant: str, sha256: Digest) -> Head | None:
    """Return the head of an upload, or None. Its bytes are only checked by `read`."""
    with suppress(NotFoundError):
        return store.head(key(tenant, sha256))
    return None


def delete(store: Store, tenant: str, sha256: Digest) -> bool:
    """Delete an upload, and return whether there was one."""
    if not find(store, tenant, sha256):
        return False
    # Without a condition: equal bytes have equal keys, so that there is no other version to spare.
    store.delete(key(tenant, sha256))
    return True


def write(store: Store, tenant: str, sha256: Digest, body: bytes) -> None:
    """Store an upload, for stores that clients cannot upload to by themselves.

    Raises:
        DamagedUploadError: The bytes have another digest; nothing was written.
    """
    _check_digest(sha256, body)
    # No condition is needed: every writer of this key writes the same bytes.
    store.put(key(tenant, sha256), body)


def read(store: Store, tenant: str, sha256: Digest, *, max_bytes: int) -> bytes:
    """Return the bytes of an upload. A larger one than `max_bytes` is not fetched.

    Raises:
        UnknownUploadError: There is no such upload.
        LargeUploadError: It has more than `max_bytes`.
        DamagedUploadError: Its bytes have another digest.
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
            f"there is no upload {sha256}, or it was removed: upload it, and submit it again"
        ) from error
    # A client with a presigned form can upload anything: the digest is checked on each read.
    _check_digest(sha256, body)
    return body


def _check_digest(sha256: Digest, body: bytes) -> None:
    if (digest := hashlib.sha256(body).hexdigest()) != sha256:
        raise DamagedUploadError(
            f"the {len(body)} bytes uploaded as {sha256} have the digest {digest}: upload the "
            "right file"
        )
