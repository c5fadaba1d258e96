"""The sandboxed process: it unpacks one archive, or decodes images, that may come from anyone.

    python -c "..." '{"limits": ..., "archive": 5, "form": "zip", ...}'

Requests come on stdin, replies go to stdout: each is a header and a body. The process ends with
stdin. It imports Pillow and little else, so that it starts fast. `sandbox` is the parent's side.
"""

import codecs
import json
import signal
import struct
import sys
from collections.abc import Iterator
from io import BufferedIOBase
from typing import IO, Any, TypeAlias

from PIL import Image, ImageColor, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin

from dti_engine.errors import InvalidBundleError, InvalidImageError
from dti_engine.images.bundles import confinement
from dti_engine.images.bundles.members import ArchiveMember, BundleLimits, brief
from dti_engine.images.bundles.unpacking import ARCHIVE_ERRORS, archive_members
from dti_engine.images.decode import ImageLimits, decode_alpha, decode_image, decode_mask

REQUEST = struct.Struct("<cQ")  # NEXT, READ, IMAGE, MASK or ALPHA; number of bytes
REPLY = struct.Struct("<cIIQ")  # DONE, REJECTED or ENDED; width, height; number of bytes
NEXT, READ, IMAGE, MASK, ALPHA = b"N", b"R", b"I", b"M", b"A"
DONE = b"D"
REJECTED = b"R"  # what was requested; the next request is served
ENDED = b"E"  # the archive; nothing more of it can be read
CHUNK_BYTES = 1 << 18
MAX_NAME = 1000  # characters; four times what the rules for names allow

# What Pillow and Python would import late, when no file can be opened any more.
EARLY_MODULES = (ImageColor, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
try:
    from PIL import AvifImagePlugin
except ImportError:  # an older Pillow
    pass
else:
    # As many as there are cores would not fit into the limits.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
_EARLY_ENCODINGS = ("ascii", "cp437", "latin-1", "utf-8", "utf-16")

_Reply: TypeAlias = tuple[bytes, bytes]


class _Archive:
    """An archive whose members are read once, in their order."""

    def __init__(self, members: Iterator[ArchiveMember]) -> None:
        self._members = members
        self._member: ArchiveMember | None = None
        self._content: IO[bytes] | BufferedIOBase | None = None

    def next(self) -> bytes:
        """Return the next member as JSON; nothing at the end."""
        self._content = None
        self._member = member = next(self._members, None)
        if member is None:
            return b""
        values = {
            "name": member.name[:MAX_NAME],
            "is_folder": member.is_folder,
            "rejection": member.rejection,
            "declared_bytes": member.declared_bytes,
        }
        return json.dumps(values).encode()  # ASCII, also for names that are not UTF-8

    def read(self) -> bytes:
        """Return the next piece of the member; less than a whole one at its end."""
        assert self._member
        if self._content is None:
            self._content = self._member.open()
        return self._content.read(CHUNK_BYTES)


def main() -> None:
    """Serve requests until stdin ends."""
    given = json.loads(sys.argv[1])
    limits = BundleLimits(**given["limits"] | {"image": ImageLimits(**given["limits"]["image"])})
    archive = None
    if given["form"]:
        # A descriptor, or a path where descriptors are not inherited.
        file = open(given["archive"], "rb")  # noqa: SIM115 (it stays open until the end)
        archive = _Archive(archive_members(file, given["form"], limits))
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    Image.preinit()  # imports the other decoders
    for name in _EARLY_ENCODINGS:
        codecs.lookup(name)
    missing = confinement.confine(given["memory_bytes"], given["processor_s"])
    # Everything is imported by now, so no image pays for the start with its timeout.
    _send(replies, DONE, ", ".join(missing).encode())
    while header := requests.read(REQUEST.size):
        kind, size = REQUEST.unpack(header)
        data = requests.read(size)
        # The parent kills this process after its timeout; the alarm is for when the parent died.
        _set_alarm(2 * given["timeout_s"])
        if archive:
            _send(replies, *_unpack(archive, kind))
        else:
            _decode(replies, kind, data, limits.image)
        _set_alarm(0)


def _set_alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _send(replies: IO[bytes], status: bytes, body: bytes, size: tuple[int, int] = (0, 0)) -> None:
    replies.write(REPLY.pack(status, *size, len(body)))
    replies.write(body)
    replies.flush()


def _unpack(archive: _Archive, kind: bytes) -> _Reply:
    try:
        return DONE, archive.next() if kind == NEXT else archive.read()
    except InvalidBundleError as error:
        return ENDED, _encoded(error)
    except MemoryError:
        return ENDED, b"takes more memory to unpack than is allowed; pack it again"
    except (*ARCHIVE_ERRORS, RuntimeError) as error:  # the latter: zipfile, on failed decryption
        return ENDED if kind == NEXT else REJECTED, _encoded(error)


def _decode(replies: IO[bytes], kind: bytes, data: bytes, limits: ImageLimits) -> None:
    try:
        if kind == MASK:
            image = decode_mask(data, limits=limits)
        elif kind == ALPHA:
            image = decode_alpha(data, limits=limits)
        else:
            image = decode_image("", data, limits=limits).image
        _send(replies, DONE, image.tobytes(), image.size)
    except InvalidImageError as error:
        _send(replies, REJECTED, _encoded(error))
    except MemoryError:
        _send(replies, REJECTED, b"takes more memory to decode than is allowed; scale it down")


def _encoded(error: Any) -> bytes:
    return brief(str(error)).encode()
