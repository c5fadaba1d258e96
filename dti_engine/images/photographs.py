"""Tells photographs from drawings, for models that know drawings alone.

A photograph has texture nearly everywhere, and a drawing has areas of one colour. The share of
neighbouring pixels that are equal separates the 41 photographs of 8 DreamBooth subjects from flat
drawings, also after JPEG compression; single photographs on a plain ground fail it, so the images
of a subject decide together. Small images are drawings here: what is too small to tell is not
refused.
"""

from collections.abc import Sequence

from PIL import Image, ImageChops

from dti_engine.images.decode import SubjectImage

_MIN_SIDE_PX = 256  # the shorter side of an image as it was given
_COMPARED_PX = 128  # the longer side when neighbours are compared
_EQUAL_LEVELS = 2  # a difference of fewer of 255 levels
_MAX_EQUAL_SHARE = 0.75


def shows_photographs(images: Sequence[SubjectImage]) -> bool:
    """Return whether at least half of a subject's images are photographs."""
    count = sum(1 for image in images if is_photograph(image.image, image.original_size))
    return count > 0 and 2 * count >= len(images)


def is_photograph(image: Image.Image, original_size: tuple[int, int]) -> bool:
    """Return whether an image has the texture of a photograph, and is large enough to tell."""
    if min(original_size) < _MIN_SIDE_PX:
        return False
    small = image.convert("RGB")
    small.thumbnail((_COMPARED_PX, _COMPARED_PX), Image.Resampling.BOX)
    width, height = small.size
    left, right = (small.crop((x, 0, x + width - 1, height)) for x in (0, 1))
    counts = ImageChops.difference(left, right).convert("L").histogram()
    return sum(counts[:_EQUAL_LEVELS]) <= _MAX_EQUAL_SHARE * sum(counts)
