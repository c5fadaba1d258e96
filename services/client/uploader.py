"""Uploads by content: files are announced by their SHA-256, and only unknown ones are sent.

Contents stay on disk until they are sent: a job may have thousands.
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

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can have
_FILE_MODE = 0o100644 << 16
_MAX_UPLOADS = 6  # at a time; so many contents are in memory
_ANNOUNCED = 200  # in one request: few enough that no upload form expires before its turn
_ROUNDS = 3  # a form that has expired is renewed in the next round


@dataclass(frozen=True, slots=True)
class UploadContent:
    """A file to be uploaded, by its digest."""

    sha256: str
    size: int
    read: Callable[[], bytes]
    """Read the bytes again. Raises: InvalidBundleError if they have changed."""


def content_of(data: bytes) -> UploadContent:
    """Return the content of bytes in memory."""
    return UploadContent(hashlib.sha256(data).hexdigest(), len(data), lambda: data)


def bundle_content(path: Path) -> UploadContent:
    """Return the content of a bundle: an archive as it is, or a folder or image as a zip.

    Raises: InvalidBundleError if it cannot be read.
    """
    data = _read_bundle(path)
    digest = hashlib.sha256(data).hexdigest()
    return UploadContent(digest, len(data), partial(_read_again, path, digest))


def _read_again(path: Path, digest: str) -> bytes:
    data = _read_bundle(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise InvalidBundleError(f"{str(path)!r} has changed since it was checked: submit it again")
    return data


def _read_bundle(path: Path) -> bytes:
    from dti_engine.images.bundles.archives import is_archive

    if path.exists() and (path.is_dir() or not is_archive(path)):
        return _zip_folder(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidBundleError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _zip_folder(folder: Path) -> bytes:
    """Pack the files of a bundle so that the same files give the same bytes on every machine.

    Entries have no times, owners or compression; images are compressed already. Films, caches and
    outputs of runs, which lie beside the images, are not sent. The folder's own name is kept where
    it says what the subject is, such as `10_sks dog`.
    """
    from dti_engine.images.bundles.archives import bare_name
    from dti_engine.images.bundles.layouts import is_repeats_folder
    from dti_engine.images.bundles.members import DEFAULT_LIMITS
    from dti_engine.images.bundles.reader import read_contents

    contents = read_contents(folder, DEFAULT_LIMITS)
    own_name = bare_name(folder)
    top = f"{own_name}/" if is_repeats_folder(own_name) else ""
    if contents.errors:
        raise InvalidBundleError(f"{str(folder)!r} refused: {contents.errors[0]}")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.files.items():
            entry = zipfile.ZipInfo(top + name, _ZIP_EPOCH)
            entry.create_system, entry.external_attr = 3, _FILE_MODE  # Unix, whatever runs this
            archive.writestr(entry, data)
    return packed.getvalue()


def missing(connection: HttpConnection, contents: Sequence[UploadContent]) -> list[UploadContent]:
    """Return the contents that the service does not store, each once. Raises: ClientError."""
    found = [
        content
        for chunk in _chunks(contents)
        for content, form in zip(chunk, _announce(connection, chunk), strict=True)
        if form is not None
    ]
    return list({content.sha256: content for content in found}.values())


def upload(
    connection: HttpConnection,
    contents: Sequence[UploadContent],
    *,
    on_sent: Callable[[UploadContent], None] = lambda content: None,
) -> None:
    """Send what the service does not store; `on_sent` is called in other threads, once each.

    What was sent before an error stays stored.

    Raises: ClientError; InvalidBundleError if a bundle has changed.
    """
    pool = ThreadPoolExecutor(_MAX_UPLOADS)
    try:
        for chunk in _chunks(list({content.sha256: content for content in contents}.values())):
            _upload_chunk(connection, pool, chunk, on_sent)
    finally:
        # After an error, uploads that have begun end, and stay stored; no other one begins.
        pool.shutdown(cancel_futures=True)


def _upload_chunk(
    connection: HttpConnection,
    pool: ThreadPoolExecutor,
    chunk: Sequence[UploadContent],
    on_sent: Callable[[UploadContent], None],
) -> None:
    reported, waiting = set[str](), list(chunk)

    def send(work: tuple[UploadContent, UploadForm]) -> UploadRefusedError | None:
        content, form = work
        try:
            _send(connection, content, form)
        except UploadRefusedError as error:
            return error
        reported.add(content.sha256)
        on_sent(content)
        return None

    for round_number in range(1, _ROUNDS + 1):
        to_send = list[tuple[UploadContent, UploadForm]]()
        for content, form in zip(waiting, _announce(connection, waiting), strict=True):
            if form:
                to_send.append((content, form))
            # Stored by an earlier command, or by a round whose answer was lost.
            elif content.sha256 not in reported:
                on_sent(content)
        errors = list(pool.map(send, to_send))
        waiting = [content for (content, _), error in zip(to_send, errors, strict=True) if error]
        if not waiting:
            return
        if round_number == _ROUNDS:
            raise next(error for error in errors if error)


def _announce(
    connection: HttpConnection, contents: Sequence[UploadContent]
) -> list[UploadForm | None]:
    """Return how each content is to be uploaded, in order; None if it is stored."""
    files = [{"sha256": content.sha256, "size": content.size} for content in contents]
    response = connection.fetch(Uploads, "POST", "v1/uploads", json={"files": files})
    announced = {file.sha256: file for file in response.files}
    forms = list[UploadForm | None]()
    for content in contents:
        file = announced.get(content.sha256)
        if file is None or not (file.present or file.upload):
            raise BrokenServerError(f"{connection.server} does not say how to upload a file")
        forms.append(None if file.present else file.upload)
    return forms


def _send(connection: HttpConnection, content: UploadContent, form: UploadForm) -> None:
    """Send one file. Raises: UploadRefusedError if the form may have expired; ClientError."""
    data = content.read()
    match form.method.upper():
        case "PUT":
            connection.request("PUT", form.url, content=data)
        case "POST":
            # The file comes last: S3 ignores fields after it.
            connection.request("POST", form.url, data=form.fields, files={"file": data})
        case other:
            raise BrokenServerError(
                f"{connection.server} requests uploads by {other!r:.20}, which this program does "
                "not know: is it older than the service?"
            )


def _chunks(contents: Sequence[UploadContent]) -> Iterator[Sequence[UploadContent]]:
    for start in range(0, len(contents), _ANNOUNCED):
        yield contents[start : start + _ANNOUNCED]
