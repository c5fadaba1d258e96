"""Uploads of what the service does not have yet: many announced at once, several sent at a time.

Bytes to be uploaded, which are called by their SHA-256. They are kept on disk, not in memory:
there may be thousands.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dti_engine.errors import InvalidBundleError
from services.client.errors import BrokenServerError, UploadRefusedError
from services.client.http import HttpConnection
from services.client.schemas import UploadForm, Uploads

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can have
_MODE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class UploadContent:
    """Bytes, and what they are called."""

    sha256: str
    size: int
    read: Callable[[], bytes]
    """Gives them once more. Raises: InvalidBundleError if they have changed meanwhile."""


def parcel(data: bytes) -> UploadContent:
    """Of bytes in memory."""
    return UploadContent(hashlib.sha256(data).hexdigest(), len(data), lambda: data)


def bundle_parcel(path: Path) -> UploadContent:
    """Of a bundle: an archive as it is, a folder packed, always to the same bytes.

    Raises: InvalidBundleError if it cannot be read.
    """
    data = _packed(path)
    digest = hashlib.sha256(data).hexdigest()
    return UploadContent(digest, len(data), partial(_read_again, path, digest))


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
    same files are the same bytes on any host. Images are compressed already.
    """
    from dti_engine.images.bundles.members import DEFAULT_LIMITS
    from dti_engine.images.bundles.reader import read_contents

    contents = read_contents(folder, DEFAULT_LIMITS)
    if contents.errors:
        raise InvalidBundleError(f"{str(folder)!r} refused: {contents.errors[0]}")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system, entry.external_attr = 3, _MODE  # as Unix has it, everywhere
            archive.writestr(entry, data)
    return packed.getvalue()


_AT_ONCE = 6  # uploads at a time; so many parcels are in memory
_ANNOUNCED = 200  # in one call: few enough that no form expires before its turn
_ROUNDS = 3  # in which an upload may be refused, such as for a form that has expired


def missing(connection: HttpConnection, parcels: Sequence[UploadContent]) -> list[UploadContent]:
    """Those that the service does not have, each once. Raises: ClientError."""
    found = [
        parcel
        for chunk in _chunks(parcels)
        for parcel, form in zip(chunk, _forms(connection, chunk), strict=True)
        if form is not None
    ]
    return list({parcel.sha256: parcel for parcel in found}.values())


def upload(
    connection: HttpConnection,
    parcels: Sequence[UploadContent],
    *,
    on_sent: Callable[[UploadContent], None] = lambda parcel: None,
) -> None:
    """Send what the service does not have. `on_sent` hears of each, from other threads.

    Raises: ClientError; InvalidBundleError if one has changed. What was sent stays there.
    """
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for chunk in _chunks(list({parcel.sha256: parcel for parcel in parcels}.values())):
            _upload_chunk(connection, pool, chunk, on_sent)
    finally:
        pool.shutdown(cancel_futures=True)


def _upload_chunk(
    connection: HttpConnection,
    pool: ThreadPoolExecutor,
    chunk: Sequence[UploadContent],
    on_sent: Callable[[UploadContent], None],
) -> None:
    told, waiting = set[str](), list(chunk)

    def send(work: tuple[UploadContent, UploadForm]) -> UploadRefusedError | None:
        parcel, form = work
        try:
            _send(connection, parcel, form)
        except UploadRefusedError as error:
            return error
        told.add(parcel.sha256)
        on_sent(parcel)
        return None

    for round_ in range(1, _ROUNDS + 1):
        forms = _forms(connection, waiting)
        work = [(one, form) for one, form in zip(waiting, forms, strict=True) if form]
        for one, form in zip(waiting, forms, strict=True):
            if form is None and one.sha256 not in told:
                on_sent(one)
        refused = [
            (parcel, error)
            for (parcel, _), error in zip(work, pool.map(send, work), strict=True)
            if error
        ]
        if not refused:
            return
        if round_ == _ROUNDS:
            raise refused[0][1]
        waiting = [parcel for parcel, _ in refused]


def _forms(connection: HttpConnection, parcels: Sequence[UploadContent]) -> list[UploadForm | None]:
    """How each is to be uploaded, in their order; None if it is there."""
    files = [{"sha256": parcel.sha256, "size": parcel.size} for parcel in parcels]
    answer = connection.ask(Uploads, "POST", "v1/uploads", json={"files": files})
    said = {file.sha256: file for file in answer.files}
    forms = list[UploadForm | None]()
    for parcel in parcels:
        file = said.get(parcel.sha256)
        if file is None or not (file.present or file.upload):
            raise BrokenServerError(f"{connection.server} does not say how to upload a file")
        forms.append(None if file.present else file.upload)
    return forms


def _send(connection: HttpConnection, parcel: UploadContent, form: UploadForm) -> None:
    """Raises: UploadRefusedError: the form may have expired; ClientError."""
    data = parcel.read()
    match form.method.upper():
        case "PUT":
            connection.request("PUT", form.url, content=data)
        case "POST":
            # The file comes last: what stands behind it, S3 does not read.
            connection.request("POST", form.url, data=form.fields, files={"file": data})
        case other:
            raise BrokenServerError(
                f"{connection.server} asks for uploads by {other!r:.20}, which this program does "
                "not know: is it older than the service?"
            )


def _chunks(parcels: Sequence[UploadContent]) -> Iterator[Sequence[UploadContent]]:
    for start in range(0, len(parcels), _ANNOUNCED):
        yield parcels[start : start + _ANNOUNCED]
