"""Decoding in a child process: the child's side. Files come on stdin, pixels go to stdout.

    python -m dti_engine.images.bundles.decoder_process MEMORY_BYTES SECONDS MAX_BYTES \
        MAX_MEGAPIXELS MIN_SIDE_PX

A request is a header and the bytes of a file; a reply is a header and pixels, or a reason. The
process ends with stdin. It imports Pillow and little else, so that it starts fast. `decoder` is the
parent's side.
"""

import contextlib
import signal
import struct
import sys

from dti_engine.errors import InvalidImageError
from dti_engine.images.decode import ImageLimits, decode_image, decode_mask

REQUEST = struct.Struct("<cQ")  # IMAGE or MASK, number of bytes
REPLY = struct.Struct("<cIIQ")  # DONE or REJECTED, width, height, number of bytes
READY, IMAGE, MASK, DONE, REJECTED = b"!", b"I", b"M", b"D", b"R"


def main() -> None:
    """Serve requests until stdin ends."""
    memory_bytes, seconds, max_bytes, max_megapixels, min_side_px = sys.argv[1:]
    _limit_memory(int(memory_bytes))
    limits = ImageLimits(int(max_bytes), float(max_megapixels), int(min_side_px))
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    # Everything is imported by now, so no image pays for the start with its timeout.
    replies.write(READY)
    replies.flush()
    while header := requests.read(REQUEST.size):
        kind, size = REQUEST.unpack(header)
        data = requests.read(size)
        # The parent kills this process after its timeout; the alarm is for when the parent died.
        signal.setitimer(signal.ITIMER_REAL, 2 * float(seconds))
        for part in _reply(kind, data, limits):
            replies.write(part)
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reply(kind: bytes, data: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    try:
        if kind == MASK:
            image = decode_mask(data, limits=limits)
        else:
            image = decode_image("", data, limits=limits).image
        pixels = image.tobytes()
        return REPLY.pack(DONE, *image.size, len(pixels)), pixels
    except InvalidImageError as error:
        reason = str(error)
    except MemoryError:
        reason = "takes more memory to decode than is allowed; scale it down"
    encoded = reason.encode("utf-8", "backslashreplace")
    return REPLY.pack(REJECTED, 0, 0, len(encoded)), encoded


def _limit_memory(memory_bytes: int) -> None:
    import resource

    # A crash must not write a stranger's image to the disk as a core dump.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):  # macOS has the limit and does not let it be set
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
