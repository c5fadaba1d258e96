"""What is seen of an image: the square crops of it, and of its mask. Loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

from PIL import Image, ImageStat

from dti_engine.errors import ConfigurationError, InvalidImageError
from dti_engine.images.decode import SubjectImage

MAX_CROPS = 8  # of one image: a random crop has a near neighbour, and encoding takes seconds
_MIN_SHARE = 0.01  # of a crop that its mask must show; with less, a few latents would be all

_Box: TypeAlias = tuple[float, float, float, float]


class MicroConditioning(NamedTuple):
    """What part of which image an image is, as models with micro-conditioning are told.

    Source: Podell et al. 2023 (SDXL), section 2.2.
    """

    original_height: int  # of the image as it was taken, upright
    original_width: int
    crop_top: int  # px of the image scaled so that the crop has its size
    crop_left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Self:
        """All of an image of this size."""
        return cls(height, width, 0, 0, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A crop, and the crop of its mask at the same place, if there is one; both of one size."""

    image: Image.Image  # RGB
    micro_conditioning: MicroConditioning
    mask: Image.Image | None = None  # greyscale; white is the subject


def crop_images(subject_image: SubjectImage, size: int, *, max_crops: int) -> list[Image.Image]:
    """Squares of size x size px that span the shorter side of the image: the aspect is kept.

    A square image has one; another has up to `max_crops`, evenly spaced from end to end, or the
    one at the centre if `max_crops` is 1.

    Raises: ConfigurationError if size or max_crops is below 1.
    """
    # Each is resized on its own: the whole of a long thin image could be huge once enlarged.
    return [
        subject_image.image.resize((size, size), Image.Resampling.LANCZOS, box)
        for box in _boxes(subject_image.image.size, size, max_crops)
    ]


def make_crops(subject_image: SubjectImage, size: int, *, max_crops: int) -> list[Crop]:
    """The crops with those of the mask; one that shows next to nothing of the subject is left out.

    Raises: ConfigurationError as `crop_images`; InvalidImageError if no crop is left.
    """
    images = crop_images(subject_image, size, max_crops=max_crops)
    micro_conditionings = [
        _framing(subject_image, size, box)
        for box in _boxes(subject_image.image.size, size, max_crops)
    ]
    if subject_image.mask is None:
        return list(map(Crop, images, micro_conditionings))
    masks = [
        # The mean over an area, which never leaves the range between black and white.
        subject_image.mask.resize((size, size), Image.Resampling.BOX, box)
        for box in _boxes(subject_image.image.size, size, max_crops)
    ]
    cropped = map(Crop, images, micro_conditionings, masks)
    if shown := [view for view in cropped if view.mask and mask_coverage(view.mask)]:
        return shown
    raise InvalidImageError(
        f"{subject_image.name!r}: its mask is black, or nearly so, in every crop; "
        "paint the subject white"
    )


def mask_coverage(mask: Image.Image) -> float:
    """The part of a greyscale mask that is white, in 0 .. 1; 0 if it is too small to train on."""
    part = ImageStat.Stat(mask).mean[0] / 255
    return part if part >= _MIN_SHARE else 0.0


def _framing(subject_image: SubjectImage, size: int, box: _Box) -> MicroConditioning:
    width, height = subject_image.original_size
    left, top, right, _ = box
    scale = size / (right - left)
    return MicroConditioning(height, width, round(top * scale), round(left * scale), size, size)


def _boxes(image_size: tuple[int, int], size: int, max_crops: int) -> Sequence[_Box]:
    """Where the crops lie: (left, top, right, bottom) in pixels of the image."""
    if size < 1 or max_crops < 1:
        raise ConfigurationError(f"size and max_crops must be >= 1, got {size} and {max_crops}")
    width, height = image_size
    side = min(width, height)
    slack = max(width, height) - side
    count = min(max_crops, 1 + round(slack * size / side))  # no two less than a pixel apart
    starts = [slack * i / (count - 1) for i in range(count)] if count > 1 else [slack / 2]
    corners = [(start, 0.0) if width > height else (0.0, start) for start in starts]
    return [(x, y, x + side, y + side) for x, y in corners]
