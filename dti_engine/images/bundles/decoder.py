"""Decoding in a child process with limits of time and memory: the parent's side.

Image decoders are C code that reads untrusted bytes. One process serves a bundle; an image that
crashes it is rejected, and the next image gets a new process.
"""

import hashlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event, Timer
from types import TracebackType
from typing import IO, Self

from PIL import Image

from dti_engine.errors import FailedError, InvalidImageError
from dti_engine.images.bundles import decoder_process
from dti_engine.images.bundles.members import BundleLimits
from dti_engine.images.decode import SubjectImage

_START_TIMEOUT_S = 60.0  # usually 0.1 s, but a busy machine may take long
_ROOT = Path(__file__).parents[3]  # working directory, so that the child imports this package
_CHANNELS = {decoder_process.IMAGE: 3, decoder_process.MASK: 1}


class Decoder:
    """Decode files in a child process. Use it in a `with` statement. Not thread-safe."""

    def __init__(self, limits: BundleLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def image(self, name: str, data: bytes) -> SubjectImage:
        """Decode an image as `decode_image` does. Raises: InvalidImageError with the reason."""
        size, pixels = self._request(decoder_process.IMAGE, data)
        image = Image.frombytes("RGB", size, pixels)
        return SubjectImage(name, image, hashlib.sha256(data).hexdigest(), size)

    def mask(self, data: bytes) -> Image.Image:
        """Decode a mask as `decode_mask` does. Raises: InvalidImageError with the reason."""
        return Image.frombytes("L", *self._request(decoder_process.MASK, data))

    def _request(self, kind: bytes, data: bytes) -> tuple[tuple[int, int], bytes]:
        """Return (width, height) and the pixels. Raises: InvalidImageError with the reason."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        is_late = Event()

        def expire() -> None:
            is_late.set()
            process.kill()  # closes its pipes, which ends the blocking read below

        timer = Timer(self._limits.decoder_timeout_s, expire)
        timer.start()
        try:
            # The child reads a whole request before it writes, so the two never block on full
            # pipes.
            process.stdin.write(decoder_process.REQUEST.pack(kind, len(data)))
            process.stdin.write(data)
            process.stdin.flush()
            width, height, body = self._read_reply(process.stdout, _CHANNELS[kind])
        except (OSError, EOFError) as error:
            self._stop()
            if is_late.is_set():
                reason = f"takes longer to decode than {self._limits.decoder_timeout_s:g} s"
            else:
                reason = "crashes the decoder"
            raise InvalidImageError(f"{reason}; save it again, or smaller") from error
        finally:
            timer.cancel()
            timer.join()
            if is_late.is_set():  # the timer may have fired just after the reply
                self._stop()
        return (width, height), body

    def _read_reply(self, replies: IO[bytes], channels: int) -> tuple[int, int, bytes]:
        """Read a reply. Raises: EOFError if invalid; InvalidImageError if it is a rejection."""
        status, width, height, size = decoder_process.REPLY.unpack(
            _read(replies, decoder_process.REPLY.size)
        )
        # The child is not trusted either: an image may have taken it over.
        if size > 3 * max(self._limits.image.max_megapixels * 1e6, 1000):
            raise EOFError
        body = _read(replies, size)
        if status == decoder_process.REJECTED:
            raise InvalidImageError(body.decode("utf-8", "replace"))
        if not size or size != width * height * channels:
            raise EOFError
        return width, height, body

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the child. Raises: FailedError if it does not start, whatever the image."""
        limits = self._limits
        numbers = (
            limits.decoder_memory_bytes,
            limits.decoder_timeout_s,
            limits.image.max_bytes,
            limits.image.max_megapixels,
            limits.image.min_side_px,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "dti_engine.images.bundles.decoder_process", *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries write there about damaged files
            cwd=_ROOT,
            start_new_session=True,  # Ctrl-C goes to the parent, which ends the child
        )
        self._process = process
        assert process.stdout
        timer = Timer(_START_TIMEOUT_S, process.kill)
        timer.start()
        try:
            if process.stdout.read(1) != decoder_process.READY:
                self._stop()
                raise FailedError(
                    "the process that decodes images does not start; is its memory limit of "
                    f"{limits.decoder_memory_bytes / 1e6:g} MB too low for this machine?"
                )
        finally:
            timer.cancel()
            timer.join()
        return process

    def _stop(self) -> None:
        if process := self._process:
            self._process = None
            process.kill()  # even an idle child has no state to lose
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                with suppress(OSError):  # flushing to a dead process fails
                    pipe.close()


def _read(file: IO[bytes], size: int) -> bytes:
    """Read exactly `size` bytes. Raises: EOFError if the file ends before."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
