"""Decoding in a process of its own, which may neither take long nor much memory, and may die.

What decodes images is C code that meets what anyone sends. One process serves a bundle; when a
image takes it down, that image is refused and the next one gets a new process.
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
from dti_engine.images.bundles import decoder_process as worker
from dti_engine.images.bundles.members import BundleLimits
from dti_engine.images.decode import SubjectImage

_START_SECONDS = 60.0  # it takes a tenth of one, but not on every machine at every time
_ROOT = Path(__file__).parents[3]  # from where the worker finds the same package as we did
_CHANNELS = {worker.IMAGE: 3, worker.MASK: 1}


class Decoder:
    """Bytes of files in, images and masks out. To be used in a `with` statement."""

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
        """As `images.decode_image`. Raises: InvalidImageError with the reason."""
        size, pixels = self._ask(worker.IMAGE, data)
        image = Image.frombytes("RGB", size, pixels)
        return SubjectImage(name, image, hashlib.sha256(data).hexdigest(), size)

    def mask(self, data: bytes) -> Image.Image:
        """As `images.decode_mask`. Raises: InvalidImageError with the reason."""
        return Image.frombytes("L", *self._ask(worker.MASK, data))

    def _ask(self, kind: bytes, data: bytes) -> tuple[tuple[int, int], bytes]:
        """(width, height) and the pixels."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        is_late = Event()

        def expire() -> None:
            is_late.set()
            process.kill()  # which ends our waiting, too

        timer = Timer(self._limits.decoder_timeout_s, expire)
        timer.start()
        try:
            process.stdin.write(worker.REQUEST.pack(kind, len(data)))
            process.stdin.write(data)
            process.stdin.flush()
            width, height, body = self._read_reply(process.stdout, _CHANNELS[kind])
        except (OSError, EOFError) as error:
            self._stop()
            if is_late.is_set():
                reason = f"takes longer to decode than {self._limits.decoder_timeout_s:g} s"
            else:
                reason = "brings the decoder down"
            raise InvalidImageError(f"{reason}; save it anew, or smaller") from error
        finally:
            timer.cancel()
            timer.join()
            if is_late.is_set():  # perhaps just after it had answered
                self._stop()
        return (width, height), body

    def _read_reply(self, replies: IO[bytes], channels: int) -> tuple[int, int, bytes]:
        """Raises: EOFError if it is none; InvalidImageError if it is a refusal."""
        status, width, height, size = worker.REPLY.unpack(_read(replies, worker.REPLY.size))
        # Not even the worker is trusted: an image may have taken it over.
        if size > 3 * max(self._limits.image.max_megapixels * 1e6, 1000):
            raise EOFError
        body = _read(replies, size)
        if status == worker.REFUSED:
            raise InvalidImageError(body.decode("utf-8", "replace"))
        if not size or size != width * height * channels:
            raise EOFError
        return width, height, body

    def _start(self) -> subprocess.Popen[bytes]:
        """Raises: FailedError if there can be no process, which no image is to blame for."""
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
            stderr=subprocess.DEVNULL,  # libraries chat there about damaged files
            cwd=_ROOT,
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        self._process = process
        assert process.stdout
        timer = Timer(_START_SECONDS, process.kill)
        timer.start()
        try:
            if process.stdout.read(1) != worker.READY:
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
            process.kill()  # also if it is idle: it has nothing to lose
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                with suppress(OSError):  # what was not yet written cannot be
                    pipe.close()


def _read(file: IO[bytes], size: int) -> bytes:
    """Exactly so many bytes. Raises: EOFError if it ends before."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
