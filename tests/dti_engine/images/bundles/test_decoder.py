"""The decoder process: its limits, crashes, and recovery."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from dti_engine.errors import FailedError, InvalidImageError
from dti_engine.images.bundles import sandbox as sandbox_module
from dti_engine.images.bundles.bundle import check_bundle
from dti_engine.images.bundles.decoder import Decoder
from dti_engine.images.bundles.members import DEFAULT_LIMITS, BundleLimits
from dti_engine.images.decode import decode_image, decode_mask

Png = Callable[..., bytes]


def vast(side: int = 7900, mode: str = "RGB") -> bytes:
    """One colour, 62 megapixels: a small file that takes long and much memory to decode."""
    buffer = BytesIO()
    Image.new(mode, (side, side)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def replace_sandbox_process(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    package = folder / "dti_engine" / "images" / "bundles"
    package.mkdir(parents=True)
    for parent in (package, package.parent, package.parent.parent):
        (parent / "__init__.py").touch()
    (package / "sandbox_process.py").write_text(code)
    monkeypatch.setattr(sandbox_module, "_ROOT", folder)


def test_the_child_decodes_as_the_parent_would(png: Png) -> None:
    data = png()
    with Decoder(DEFAULT_LIMITS) as decoder:
        actual, plain = decoder.image("a.png", data), decode_image("a.png", data)
        assert actual.image.tobytes() == plain.image.tobytes()
        assert (actual.name, actual.sha256, actual.original_size) == (
            plain.name,
            plain.sha256,
            plain.original_size,
        )
        assert decoder.mask(data).tobytes() == decode_mask(data).tobytes()


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" * 9])
def test_a_rejection_has_a_reason_and_the_next_image_is_served(data: bytes, png: Png) -> None:
    with Decoder(DEFAULT_LIMITS) as decoder:
        with pytest.raises(InvalidImageError, match="its content is not JPEG"):
            decoder.image("a.png", data)
        process = decoder._sandbox._process
        assert decoder.image("b.png", png()).image.size == (64, 48)
        assert decoder._sandbox._process is process


def test_an_image_that_takes_too_long_is_rejected_and_the_next_is_served(png: Png) -> None:
    data = vast()
    with Decoder(BundleLimits(decoder_timeout_s=0.2)) as decoder:
        start = time.monotonic()
        with pytest.raises(InvalidImageError, match=r"takes longer to decode than 0\.2 s"):
            decoder.image("a.png", data)
        assert time.monotonic() - start < 10
        decoder._sandbox._timeout_s = 20
        assert decoder.image("b.png", png()).image.size == (64, 48)


def test_an_image_that_takes_too_much_memory_is_rejected_and_the_next_is_served(png: Png) -> None:
    limits = BundleLimits(decoder_memory_bytes=400_000_000)
    with Decoder(limits) as decoder:
        with pytest.raises(InvalidImageError, match="more memory to decode than is allowed"):
            decoder.image("a.png", vast(mode="RGBA"))
        assert decoder.image("b.png", png()).image.size == (64, 48)


def test_the_largest_image_allowed_is_decoded_within_the_limits() -> None:
    with Decoder(replace(DEFAULT_LIMITS, decoder_timeout_s=120)) as decoder:
        assert decoder.image("a.png", vast(mode="LA")).image.size == (7900, 7900)


def test_a_decoder_that_dies_costs_one_image(png: Png) -> None:
    with Decoder(DEFAULT_LIMITS) as decoder:
        decoder.image("a.png", png())
        assert decoder._sandbox._process
        os.kill(decoder._sandbox._process.pid, signal.SIGSEGV)
        with pytest.raises(InvalidImageError, match="crashes the decoder; save it again"):
            decoder.image("b.png", png())
        assert decoder.image("c.png", png()).image.size == (64, 48)


@pytest.mark.parametrize(
    "reply",
    [
        b"D" + bytes(16),  # no pixels at all
        b"D\xff\xff\xff\xff\xff\xff\xff\xff" + b"\xff" * 8,  # more than there can be
        b"D" + (64).to_bytes(4, "little") * 2 + (7).to_bytes(8, "little") + bytes(7),
        b"?",
    ],
)
def test_replies_of_a_compromised_decoder_are_checked(
    reply: bytes, png: Png, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # It stays until it has the request: one that ends before is not even read.
    code = f"""
import sys
sys.stdout.buffer.write(b"D" + bytes(16) + {reply!r})
sys.stdout.buffer.flush()
sys.stdin.buffer.read(9)
"""
    replace_sandbox_process(tmp_path, monkeypatch, code)
    with (
        Decoder(DEFAULT_LIMITS) as decoder,
        pytest.raises(InvalidImageError, match="crashes the decoder"),
    ):
        decoder.image("a.png", png())


def test_a_decoder_that_cannot_start_is_no_error_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_sandbox_process(tmp_path, monkeypatch, "raise MemoryError")
    with (
        Decoder(DEFAULT_LIMITS) as decoder,
        pytest.raises(FailedError, match="does not start; is its memory limit of 2147"),
    ):
        decoder.image("a.png", b"")


def test_no_process_or_thread_is_left(png: Png) -> None:
    before = set(threading.enumerate())
    with Decoder(DEFAULT_LIMITS) as decoder:
        decoder.image("a.png", png())
        process = decoder._sandbox._process
    assert process
    assert process.poll() is not None
    assert set(threading.enumerate()) <= before


def test_a_bundle_outlives_its_worst_image(png: Png, tmp_path: Path) -> None:
    for name, data in {"a.png": png(1), "b.png": vast(), "c.png": png(2)}.items():
        (tmp_path / name).write_bytes(data)
    bundle = check_bundle(tmp_path, limits=BundleLimits(decoder_timeout_s=0.2))
    assert [each.name for each in bundle.images] == ["a.png", "c.png"]
    ((name, reason),) = [(each.name, each.reason) for each in bundle.errors]
    assert name == "b.png"
    assert "takes longer to decode than 0.2 s" in reason


def test_the_sandbox_process_imports_little() -> None:
    heavy = ("torch", "numpy", "pydantic", "rich", "typer")
    modules = "sys, dti_engine.images.bundles.sandbox_process"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_formats_whose_decoders_like_threads_are_decoded(png: Png, format: str) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
    data = png(0, 640, 480, format=format)
    with Decoder(DEFAULT_LIMITS) as decoder:
        assert decoder.image("a", data).image.size == (640, 480)
