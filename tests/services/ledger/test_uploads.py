"""Uploads: what is read under a digest has that digest."""

import hashlib
import io

import pytest

from services.errors import DamagedUploadError, LargeUploadError, UnknownUploadError
from services.ledger import uploads
from services.storage.memory import MemoryStore

BODY = b"a photo"
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("changed", [b"A photo", b"", b"a photo."])
def test_bytes_that_were_changed_under_their_digest_are_never_read(changed: bytes) -> None:
    store = MemoryStore()
    uploads.write(store, "acme", SHA256, io.BytesIO(BODY))
    # As a client with a form of the store may do: it can send any bytes.
    store.put(uploads.key("acme", SHA256), changed)
    with pytest.raises(DamagedUploadError, match="upload the right file"):
        uploads.read(store, "acme", SHA256, max_bytes=100)


def test_bytes_of_another_digest_are_not_written() -> None:
    store = MemoryStore()
    with pytest.raises(DamagedUploadError):
        uploads.write(store, "acme", SHA256, io.BytesIO(b"other"))
    assert uploads.find(store, "acme", SHA256) is None


def test_an_upload_is_its_tenants_and_no_larger_than_asked() -> None:
    store = MemoryStore()
    uploads.write(store, "acme", SHA256, io.BytesIO(BODY))
    assert uploads.read(store, "acme", SHA256, max_bytes=len(BODY)) == BODY
    with pytest.raises(LargeUploadError, match="at most 6 are allowed"):
        uploads.read(store, "acme", SHA256, max_bytes=len(BODY) - 1)
    with pytest.raises(UnknownUploadError):
        uploads.read(store, "globex", SHA256, max_bytes=100)
