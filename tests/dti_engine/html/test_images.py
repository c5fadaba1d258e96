"""Images in a page: small, and what is wrong with those that cannot be shown."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dti_engine.errors import InvalidImageError
from dti_engine.html.page import thumbnail


def _opened(uri: str) -> tuple[str, Image.Image]:
    kind, data = uri.split(",", 1)
    return kind, Image.open(BytesIO(base64.b64decode(data)))


def test_a_small_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    Image.linear_gradient("L").resize((16, 8)).save(path)
    found = thumbnail(path, side_px=64)
    assert (found.width, found.height) == (16, 8)
    assert found.uri == "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def test_a_large_image_becomes_a_small_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    pixels = np.random.default_rng(0).integers(256, size=(300, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    found = thumbnail(path, side_px=64)
    kind, image = _opened(found.uri)
    assert (found.width, found.height) == image.size == (64, 32)
    assert kind == "data:image/jpeg;base64"
    assert len(found.uri) < 10_000


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(InvalidImageError):
        thumbnail(tmp_path / "0.png", side_px=64)


def test_an_image_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(InvalidImageError, match="damaged or cut short"):
        thumbnail(path, side_px=64)
