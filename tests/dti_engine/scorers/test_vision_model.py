"""Images are prepared, to the rounding of float32, as by transformers' own processors on PIL."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from dti_engine.errors import ModelLoadError
from dti_engine.scorers.vision_model import Preprocessing

SIZES = [(300, 401), (401, 300), (256, 256), (64, 64), (1023, 517), (97, 640)]


def _images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


def _published(tiny: Path, folder: Path, **changes: object) -> Path:
    """Return the tiny checkpoint's preprocessing at the published sizes."""
    stated = json.loads((tiny / "preprocessor_config.json").read_text()) | changes
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


def test_dinov2s_is_that_of_its_own_processor(tiny_scorers: Path, tmp_path: Path) -> None:
    size = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    folder = _published(tiny_scorers / "dinov2-base", tmp_path, **size)
    reference = BitImageProcessorPil.from_pretrained(folder)
    for image in _images():
        pixels = Preprocessing.read(folder)([image])
        assert pixels.shape == (1, 3, 224, 224)
        expected = reference(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_siglips_is_that_of_its_own_processor(tiny_scorers: Path, tmp_path: Path) -> None:
    size = {"size": {"height": 512, "width": 512}}
    folder = _published(tiny_scorers / "siglip-base-patch16-512", tmp_path, **size)
    reference = SiglipImageProcessorPil.from_pretrained(folder)
    for image in _images():
        pixels = Preprocessing.read(folder)([image])
        expected = reference(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_images_of_all_sizes_go_into_one_batch(tiny_scorers: Path) -> None:
    prepare = Preprocessing.read(tiny_scorers / "dinov2-base")
    assert prepare(_images()).shape == (len(SIZES), 3, 14, 14)


@pytest.mark.parametrize("content", ["", "[]", '{"size": {"width": 3}}'])
def test_a_file_that_cannot_be_followed_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ModelLoadError, match="download it again"):
        Preprocessing.read(tmp_path)
