from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from dti_engine.errors import ConfigurationError, InvalidImageError
from dti_engine.images.crops import crop_images, make_crops
from dti_engine.images.decode import SubjectImage, decode_image


def noise(width: int = 64, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def subject_image(image: Image.Image, mask: Image.Image | None = None) -> SubjectImage:
    return SubjectImage("a.png", image, "0" * 64, image.size, mask=mask)


def test_a_square_image_has_one_crop() -> None:
    (crop,) = crop_images(subject_image(noise(64, 64)), 64, max_crops=8)
    assert crop.tobytes() == noise(64, 64).tobytes()


@pytest.mark.parametrize("turn", [lambda image: image, lambda image: image.transpose(4)])
def test_crops_are_spaced_evenly_from_end_to_end(
    turn: Callable[[Image.Image], Image.Image],
) -> None:
    long = noise(96, 64)
    cut = crop_images(subject_image(turn(long)), 64, max_crops=3)
    for crop, x in zip(cut, (0, 16, 32), strict=True):
        assert crop.tobytes() == turn(long.crop((x, 0, x + 64, 64))).tobytes()


@pytest.mark.parametrize("size", [32, 100])
def test_a_crop_equals_that_part_of_the_resized_image(size: int) -> None:
    whole = noise(128, 64).resize((2 * size, size), Image.Resampling.LANCZOS)
    left, right = crop_images(subject_image(noise(128, 64)), size, max_crops=2)
    assert np.abs(np.asarray(left, float) - whole.crop((0, 0, size, size))).max() <= 1
    assert np.abs(np.asarray(right, float) - whole.crop((size, 0, 2 * size, size))).max() <= 1


def test_the_only_crop_of_a_long_image_is_its_centre() -> None:
    (crop,) = crop_images(subject_image(noise(64, 96)), 64, max_crops=1)
    assert crop.tobytes() == noise(64, 96).crop((0, 16, 64, 80)).tobytes()


def test_crops_less_than_a_pixel_apart_are_left_out() -> None:
    assert len(crop_images(subject_image(noise(66, 64)), 64, max_crops=8)) == 3
    assert len(crop_images(subject_image(noise(66, 64)), 8, max_crops=8)) == 1


def test_a_long_thin_image_is_never_enlarged_as_a_whole() -> None:
    # At 512 px this one would have 2.6 gigapixels.
    cut = crop_images(subject_image(noise(32, 320_000)), 512, max_crops=2)
    assert [crop.size for crop in cut] == [(512, 512)] * 2


@pytest.mark.parametrize(("size", "max_crops"), [(0, 1), (64, 0), (-1, -1)])
def test_crops_of_no_size_or_number_are_rejected(size: int, max_crops: int) -> None:
    with pytest.raises(ConfigurationError, match=f"got {size} and {max_crops}"):
        crop_images(subject_image(noise()), size, max_crops=max_crops)


# Framing


def test_a_crop_has_its_position_in_the_original_image() -> None:
    """Height before width; the corner in px of the image scaled to the crop."""
    wide = replace(subject_image(noise(192, 64)), original_size=(384, 128))
    micro_conditionings = [view.micro_conditioning for view in make_crops(wide, 32, max_crops=3)]
    assert micro_conditionings == [(128, 384, 0, left, 32, 32) for left in (0, 32, 64)]


def test_micro_conditioning_is_that_of_the_upright_image() -> None:
    """A phone's photo lies on its side in the file, and its tags say how to turn it."""
    lying, exif, file = noise(96, 64), Image.Exif(), BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    lying.save(file, format="PNG", exif=exif)
    upright = decode_image("a.png", file.getvalue())
    micro_conditionings = [view.micro_conditioning for view in make_crops(upright, 64, max_crops=3)]
    assert micro_conditionings == [(96, 64, top, 0, 64, 64) for top in (0, 16, 32)]


# Masks


def test_a_mask_is_cropped_like_its_image() -> None:
    whole = noise(96, 64)
    cut = make_crops(subject_image(whole, whole.convert("L")), 64, max_crops=3)
    for view in cut:
        assert view.mask is not None
        assert view.mask.tobytes() == view.image.convert("L").tobytes()


def test_an_image_without_a_mask_has_crops_without_masks() -> None:
    cut = make_crops(subject_image(noise(96, 64)), 64, max_crops=3)
    assert [view.mask for view in cut] == [None] * 3
    same = crop_images(subject_image(noise(96, 64)), 64, max_crops=3)
    assert [view.image.tobytes() for view in cut] == [each.tobytes() for each in same]


def test_crops_that_show_nothing_of_the_subject_are_left_out() -> None:
    mask = Image.new("L", (192, 64))
    mask.paste(255, (0, 0, 96, 64))
    cut = make_crops(subject_image(noise(192, 64), mask), 64, max_crops=3)
    assert len(cut) == 2
    assert cut[0].image.tobytes() == noise(192, 64).crop((0, 0, 64, 64)).tobytes()


def test_a_black_mask_is_rejected() -> None:
    with pytest.raises(InvalidImageError, match=r"'a\.png': its mask is black"):
        make_crops(subject_image(noise(), Image.new("L", (64, 48))), 64, max_crops=3)
