"""Square crops of an image and its mask, with SDXL's micro-conditioning. Loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

from PIL import Image, ImageStat

from dti_engine.errors import ConfigurationError, InvalidImageError
from dti_engine.images.decode import SubjectImage

MAX_CROPS = 8  # of one image: a random crop has a near neighbour, and encoding takes seconds
_MIN_COVERAGE = 0.01  # of a crop by its mask; with less, the loss would be of a few latents

_Box: TypeAlias = tuple[float, float, float, float]


class MicroConditioning(NamedTuple):
    """The original size and the crop of an image, as the micro-conditioning of SDXL.

    Source: Podell et al. 2023 (SDXL), section 2.2.
    """

    original_height: int  # of the uncropped image, upright
    original_width: int
    crop_top: int  # in pixels after scaling, where the crop has its final size
    crop_left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Self:
        """Return the micro-conditioning of an uncropped image of this size."""
        return cls(height, width, 0, 0, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A crop, and the crop of the mask at the same place and of the same size, if there is one."""

    image: Image.Image  # RGB
    micro_conditioning: MicroConditioning
    mask: Image.Image | None = None  # greyscale; white is the subject


def crop_images(subject_image: SubjectImage, size: int, *, max_crops: int) -> list[Image.Image]:
    """Return squares that span the shorter side of the image, resized to size x size px.

    A square image has one crop; any other has up to `max_crops`, evenly spaced from end to end, or
    the central one if `max_crops` is 1. The aspect ratio is kept.

    Raises: ConfigurationError if size or max_crops is below 1.
    """
    # Each crop is resized on its own: a long thin image could be huge if it was enlarged first.
    return [
        subject_image.image.resize((size, size), Image.Resampling.LANCZOS, box)
        for box in _boxes(subject_image.image.size, size, max_crops)
    ]


def make_crops(subject_image: SubjectImage, size: int, *, max_crops: int) -> list[Crop]:
    """Return the crops with their masks, without those that hardly show the subject.

    Raises: ConfigurationError as `crop_images`; InvalidImageError if no crop is left.
    """
    images = crop_images(subject_image, size, max_crops=max_crops)
    micro_conditionings = [
        _micro_conditioning(subject_image, size, box)
        for box in _boxes(subject_image.image.size, size, max_crops)
    ]
    if subject_image.mask is None:
        return list(map(Crop, images, micro_conditionings))
    masks = [
        # BOX averages an area and so, unlike LANCZOS, never leaves the range of black to white.
        subject_image.mask.resize((size, size), Image.Resampling.BOX, box)
        for box in _boxes(subject_image.image.size, size, max_crops)
    ]
    cropped = map(Crop, images, micro_conditionings, masks)
    if kept := [crop for crop in cropped if crop.mask and mask_coverage(crop.mask)]:
        return kept
    raise InvalidImageError(
        f"{subject_image.name!r}: its mask is black, or nearly so, in every crop; "
        "paint the subject white"
    )


def mask_coverage(mask: Image.Image) -> float:
    """Return the white share of a greyscale mask, in 0 .. 1; 0 if it is too small to train on."""
    share = ImageStat.Stat(mask).mean[0] / 255
    return share if share >= _MIN_COVERAGE else 0.0


def _micro_conditioning(subject_image: SubjectImage, size: int, box: _Box) -> MicroConditioning:
    width, height = subject_image.original_size
    left, top, right, _ = box
    scale = size / (right - left)
    return MicroConditioning(height, width, round(top * scale), round(left * scale), size, size)


def _boxes(image_size: tuple[int, int], size: int, max_crops: int) -> Sequence[_Box]:
    """Return the crops' boxes: (left, top, right, bottom) in pixels of the image."""
    if size < 1 or max_crops < 1:
        raise ConfigurationError(f"size and max_crops must be >= 1, got {size} and {max_crops}")
    width, height = image_size
    side = min(width, height)
    slack = max(width, height) - side
    count = min(max_crops, 1 + round(slack * size / side))  # at least a pixel apart
    starts = [slack * i / (count - 1) for i in range(count)] if count > 1 else [slack / 2]
    corners = [(start, 0.0) if width > height else (0.0, start) for start in starts]
    return [(x, y, x + side, y + side) for x, y in corners]
