"""Decoding of images in the sandbox.

One process serves a bundle; an image that crashes it is rejected, and the next image gets a new
process.
"""

import hashlib
from types import TracebackType
from typing import Self

from PIL import Image

from dti_engine.errors import InvalidImageError
from dti_engine.images.bundles import sandbox_process
from dti_engine.images.bundles.members import BundleLimits
from dti_engine.images.bundles.sandbox import Sandbox
from dti_engine.images.decode import SubjectImage

_CHANNELS = {sandbox_process.IMAGE: 3, sandbox_process.MASK: 1, sandbox_process.ALPHA: 1}


class Decoder:
    """Decode files in the sandbox. Use it in a `with` statement. Not thread-safe."""

    def __init__(self, limits: BundleLimits) -> None:
        self._limits = limits
        self._sandbox = Sandbox(
            limits,
            memory_bytes=limits.decoder_memory_bytes,
            timeout_s=limits.decoder_timeout_s,
            # Each image may have a mask.
            processor_s=2 * limits.max_images * limits.decoder_timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sandbox.stop()

    def image(self, name: str, data: bytes) -> SubjectImage:
        """Decode an image as `decode_image` does. Raises: InvalidImageError with the reason."""
        size, pixels = self._request(sandbox_process.IMAGE, data)
        image = Image.frombytes("RGB", size, pixels)
        return SubjectImage(name, image, hashlib.sha256(data).hexdigest(), size)

    def mask(self, data: bytes) -> Image.Image:
        """Decode a mask as `decode_mask` does. Raises: InvalidImageError with the reason."""
        return Image.frombytes("L", *self._request(sandbox_process.MASK, data))

    def alpha(self, data: bytes) -> Image.Image:
        """Decode a transparency as `decode_alpha` does. Raises: InvalidImageError."""
        return Image.frombytes("L", *self._request(sandbox_process.ALPHA, data))

    def _request(self, kind: bytes, data: bytes) -> tuple[tuple[int, int], bytes]:
        """Return (width, height) and the pixels. Raises: InvalidImageError with the reason."""
        max_bytes = 3 * int(self._limits.image.max_megapixels * 1e6)
        reply = self._sandbox.request(kind, data, max_bytes=max_bytes)
        if reply.outcome == "late":
            seconds = self._limits.decoder_timeout_s
            raise InvalidImageError(
                f"takes longer to decode than {seconds:g} s; save it again, or smaller"
            )
        if reply.outcome in ("rejected", "ended"):
            raise InvalidImageError(reply.reason)
        width, height = reply.size
        num_bytes = width * height * _CHANNELS[kind]
        if reply.outcome == "crashed" or not num_bytes or len(reply.body) != num_bytes:
            self._sandbox.stop()
            raise InvalidImageError("crashes the decoder; save it again, or smaller")
        return reply.size, reply.body
