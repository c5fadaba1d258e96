"""Pictures that are nearly the same, found by a hash of what they show."""

from PIL import Image

_SIDE = 8


def difference_hash(image: Image.Image) -> int:
    """64 bits, each for whether a thumbnail's pixel is brighter than its right neighbour.

    Scaling, compression and small changes of colour leave most bits alone.
    Source: Krawetz 2013, "Kind of like that" (dHash).
    """
    thumbnail = image.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX).convert("L")
    pixels = thumbnail.tobytes()
    bits = 0
    for row in range(_SIDE):
        start = row * (_SIDE + 1)
        for left in range(start, start + _SIDE):
            bits = bits << 1 | (pixels[left] > pixels[left + 1])
    return bits


def num_different(a: int, b: int) -> int:
    """Bits in which two hashes differ."""
    return (a ^ b).bit_count()
