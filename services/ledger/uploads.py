"""Content-addressed uploads of tenants, each under its own SHA-256.

The images of a job can thus not be changed after its submission, and equal bytes are stored once.
Each tenant has a folder of its own, so that none learns what another has uploaded.
"""

import hashlib
from contextlib import suppress
from datetime import timedelta
from typing import BinaryIO

from services.contracts.training import Digest
from services.errors import DamagedUploadError, LargeUploadError, NotFoundError, UnknownUploadError
from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger
from services.storage.interface import Head, Store

MAX_FORM_TTL = timedelta(days=1)
"""The longest time for which a presigned form is valid."""
_PIECE_BYTES = 2**20
"""The bytes of a file that are hashed at once."""


def folder(tenant: str) -> str:
    """Return the prefix of a tenant's uploads."""
    return f"{tenant_folder(tenant)}uploads/"


def key(tenant: str, sha256: Digest) -> str:
    """Return the key of an upload."""
    return f"{folder(tenant)}{sha256}"


def find(store: Store, tenant: str, sha256: Digest) -> Head | None:
    """Return the head of an upload, or None. Its bytes are only checked by `read`."""
    with suppress(NotFoundError):
        head = store.head(key(tenant, sha256))
        return None if _was_deleted(store, tenant, sha256) else head
    return None


def expect(store: Store, tenant: str, sha256: Digest) -> None:
    """Let an upload come, also if it was deleted before."""
    store.delete(_marker(tenant, sha256))


def deleted(ledger: Ledger, tenant: str) -> list[Head]:
    """Return the marks of deleted uploads, whose keys end with their digests."""
    return ledger.heads(_marker(tenant, ""))


def remove_late(ledger: Ledger, tenant: str) -> None:
    """Delete uploads that came after their deletion, and marks that no form outlives."""
    for mark in deleted(ledger, tenant):
        ledger.store.delete(key(tenant, mark.key.rpartition("/")[2]))
        if mark.age > MAX_FORM_TTL:
            ledger.store.delete(mark.key)


def delete(store: Store, tenant: str, sha256: Digest) -> bool:
    """Delete an upload, and return whether there was one.

    A presigned form cannot be taken back: the mark ends what is still sent with one.
    """
    if not find(store, tenant, sha256):
        return False
    store.put(_marker(tenant, sha256), b"")
    # Without a condition: equal bytes have equal keys, so that there is no other version to spare.
    store.delete(key(tenant, sha256))
    return True


def write(store: Store, tenant: str, sha256: Digest, file: BinaryIO) -> None:
    """Store an upload, for stores that clients cannot upload to by themselves.

    Raises:
        DamagedUploadError: The bytes have another digest; nothing was written.
    """
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    _check_digest(sha256, digest.hexdigest(), file.tell())
    # No condition is needed: every writer of this key writes the same bytes.
    store.put(key(tenant, sha256), file)
    expect(store, tenant, sha256)


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
        if _was_deleted(store, tenant, sha256):
            raise NotFoundError(f"upload {sha256} was deleted")
        body = store.read(key(tenant, sha256)).body
    except NotFoundError as error:
        raise UnknownUploadError(
            f"there is no upload {sha256}, or it was removed: upload it, and submit it again"
        ) from error
    # A client with a presigned form can upload anything: the digest is checked on each read.
    _check_digest(sha256, hashlib.sha256(body).hexdigest(), len(body))
    return body


def _was_deleted(store: Store, tenant: str, sha256: Digest) -> bool:
    try:
        store.head(_marker(tenant, sha256))
    except NotFoundError:
        return False
    return True


def _marker(tenant: str, sha256: Digest) -> str:
    return f"{tenant_folder(tenant)}deleted-uploads/{sha256}"


def _check_digest(sha256: Digest, digest: str, num_bytes: int) -> None:
    if digest != sha256:
        raise DamagedUploadError(
            f"the {num_bytes} bytes uploaded as {sha256} have the digest {digest}: upload the "
            "right file"
        )
