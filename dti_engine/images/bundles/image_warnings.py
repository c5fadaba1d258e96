"""Warnings about the images of a bundle: too few, too small, too long, alike, or with bars."""

from collections.abc import Iterator, Sequence

from PIL import Image, ImageOps

from dti_engine.images.bundles.members import BundleFinding, BundleLimits
from dti_engine.images.decode import SubjectImage

_HASH_SIDE = 8

_BAR_LEVEL = 24  # of 255: what compression makes of black
_BAR_SHARE = 0.02  # of the pixels of a line in a bar that may be brighter
_EDGE_SHARE = 0.4  # of the pixels of the line behind a bar that must be brighter
_EDGE_PX = 3  # after which compression has made the edge sharp
_MIN_BAR_PX = 4
_SIDES = ("left", "top", "right", "bottom")


def image_warnings(
    images: Sequence[SubjectImage], resolution: int | None, limits: BundleLimits
) -> Iterator[BundleFinding]:
    """Yield what may spoil the training on these images; resolution: side of the crops, in px."""
    if len(images) < limits.usual_images:
        yield BundleFinding("", f"{len(images)} of the usual 3 to 6 images; give more if you can")
    hashes = [difference_hash(image.image) for image in images]
    for index, image in enumerate(images):
        for other, other_hash in zip(images[:index], hashes, strict=False):
            if hamming_distance(hashes[index], other_hash) <= limits.near_duplicate_bits:
                yield BundleFinding(image.name, f"nearly identical to {other.name!r}")
                # One warning for each image: three copies are two too many, not three pairs.
                break
        short, long = sorted(image.image.size)
        size = f"{image.image.width} x {image.image.height}"
        if resolution and short < resolution:
            reason = f"{size} px, will be enlarged to the {resolution} of training"
            yield BundleFinding(image.name, reason)
        if long > limits.max_aspect * short:
            yield BundleFinding(image.name, f"{size} px: each square crop of it shows a small part")
        # A mask already keeps the bars out of the loss.
        for colour, bars in bars_of(image.image).items() if image.mask is None else ():
            sides = " and ".join(f"{bar} px {side}" for side, bar in bars.items())
            reason = f"has {colour} bars ({sides}), which are learned with the subject; crop it"
            yield BundleFinding(image.name, reason)


def difference_hash(image: Image.Image) -> int:
    """Return 64 bits: each says whether a thumbnail's pixel is brighter than its right neighbour.

    Scaling, compression and small changes of colour leave most bits unchanged.

    Source: Krawetz 2013, "Kind of like that" (dHash).
    """
    thumbnail = image.resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX).convert("L")
    pixels = thumbnail.tobytes()
    bits = 0
    for row in range(_HASH_SIDE):
        start = row * (_HASH_SIDE + 1)
        for left in range(start, start + _HASH_SIDE):
            bits = bits << 1 | (pixels[left] > pixels[left + 1])
    return bits


def hamming_distance(a: int, b: int) -> int:
    """Return the number of bits in which two hashes differ."""
    return (a ^ b).bit_count()


def bars_of(image: Image.Image) -> dict[str, dict[str, int]]:
    """Return colour -> side -> width in pixels of the black or white bars around a photograph.

    A bar is a border of one colour with a sharp edge: the photograph begins at once along the
    side. So the background of a studio, which the subject only interrupts, is none.
    """
    grey = image.convert("L")
    found = {"black": _bars(grey), "white": _bars(ImageOps.invert(grey))}
    return {colour: bars for colour, bars in found.items() if bars}


def _bars(grey: Image.Image) -> dict[str, int]:
    """Return side -> width in pixels of the black bars of a greyscale image."""
    bright = grey.point([255 * (level > _BAR_LEVEL) for level in range(256)])
    # The mean of a line of 0 and 255 is its share of bright pixels.
    columns = bright.resize((grey.width, 1), Image.Resampling.BOX).tobytes()
    rows = bright.resize((1, grey.height), Image.Resampling.BOX).tobytes()
    lines = (columns, rows, columns[::-1], rows[::-1])
    widths = {side: _bar(line) for side, line in zip(_SIDES, lines, strict=True)}
    return {side: width for side, width in widths.items() if width}


def _bar(shares: bytes) -> int:
    """Return how many lines from the start are a bar; shares: of bright pixels, 0 to 255."""
    width = next((i for i, share in enumerate(shares) if share > 255 * _BAR_SHARE), len(shares))
    inside = shares[width : width + _EDGE_PX]
    is_sharp = bool(inside) and max(inside) > 255 * _EDGE_SHARE
    return width if is_sharp and width >= _MIN_BAR_PX else 0
