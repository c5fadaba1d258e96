"""Bytes to be uploaded, which are called by their SHA-256. They are kept on disk, not in memory:
there may be thousands.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dti_engine.errors import InvalidBundleError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can have
_MODE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes, and what they are called."""

    sha256: str
    size: int
    read: Callable[[], bytes]
    """Gives them once more. Raises: InvalidBundleError if they have changed meanwhile."""


def parcel(data: bytes) -> Parcel:
    """Of bytes in memory."""
    return Parcel(hashlib.sha256(data).hexdigest(), len(data), lambda: data)


def bundle_parcel(path: Path) -> Parcel:
    """Of a bundle: an archive as it is, a folder packed, always to the same bytes.

    Raises: InvalidBundleError if it cannot be read.
    """
    data = _packed(path)
    digest = hashlib.sha256(data).hexdigest()
    return Parcel(digest, len(data), partial(_read_again, path, digest))


def _read_again(path: Path, digest: str) -> bytes:
    data = _packed(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise InvalidBundleError(f"{str(path)!r} has changed since it was checked: submit it again")
    return data


def _packed(path: Path) -> bytes:
    if path.is_dir():
        return _zipped(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidBundleError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _zipped(folder: Path) -> bytes:
    """The files that a bundle is read from, by name, without times, owners and compression: the
    same files are the same bytes on any host. Pictures are compressed already.
    """
    from dti_engine.bundles.contents import read_contents
    from dti_engine.bundles.limits import DEFAULT_LIMITS

    contents = read_contents(folder, DEFAULT_LIMITS)
    if contents.refusals:
        raise InvalidBundleError(f"{str(folder)!r} refused: {contents.refusals[0]}")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, _MODE  # as Unix has it, everywhere
            archive.writestr(entry, data)
    return packed.getvalue()
