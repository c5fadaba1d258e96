"""Decoding of one image file within limits: format, size, orientation, colours, transparency.

Files are untrusted: their content counts, not their name, and the header is checked before any
pixel is decoded. These are the rules for a single file; `bundles` has those for several together,
and runs this module in a process with limits. Loads neither torch nor numpy.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError

from dti_engine.errors import InvalidImageError
from dti_engine.images.color_profiles import declared_profiles, to_srgb
from dti_engine.images.file_formats import (
    DECODERS,
    READABLE,
    image_format,
    reading_error,
)

_SIDECAR_SUFFIXES = frozenset({".txt", ".caption", ".json", ".jsonl"})
_DECODER_ERRORS = (OSError, SyntaxError, ValueError)  # what Pillow raises for damaged files

# The inverse of each EXIF orientation. Pillow's exif_transpose has the same table, but also
# rewrites all other tags, and so fails for an image with any malformed tag.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of one file. Pillow's own limit, near 179 megapixels, always applies as well."""

    max_bytes: int = 50_000_000
    max_megapixels: float = 64.0
    min_side_px: int = 32


_DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True, eq=False)
class SubjectImage:
    """A training image: upright, RGB, on white where it was transparent; its caption and mask."""

    name: str
    image: Image.Image
    sha256: str  # of the bytes of the file
    original_size: tuple[int, int]  # (width, height) in pixels, upright
    caption: str | None = None  # with `{}` for the placeholder; None: caption templates
    mask: Image.Image | None = None  # greyscale, of the image's size; white is the subject


def load_images(folder: str | Path, *, limits: ImageLimits = _DEFAULT_LIMITS) -> list[SubjectImage]:
    """Return all images of a trusted folder, in the order of their names.

    Untrusted files need `bundles.bundle`, which decodes in a process with limits. Hidden files and
    captions and descriptions (`.txt`, `.caption`, `.json`, `.jsonl`) are ignored; anything else is
    rejected.

    Raises: InvalidImageError that lists all rejected files with reasons, or says there is none.
    """
    images: list[SubjectImage] = []
    reasons: list[str] = []
    for path in _entries(Path(folder)):
        try:
            images.append(decode_image(path.name, _read(path, limits), limits=limits))
        except InvalidImageError as reason:
            reasons.append(f"\n  {path.name!r}: {reason}")
    if reasons:
        num_files = len(reasons) + len(images)
        raise InvalidImageError(
            f"{len(reasons)} of {num_files} files in {str(folder)!r} rejected:{''.join(reasons)}"
        )
    if not images:
        raise InvalidImageError(f"no images in {str(folder)!r}: put {READABLE} files there")
    return images


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise InvalidImageError(
            f"cannot list {str(folder)!r} ({error.strerror}): give a folder of images"
        ) from error
    # Systems leave hidden files behind, such as .DS_Store, of which users know nothing. A file that
    # they do know and that is no image is an error: they may believe that it is learned from.
    visible = (path for path in entries if not path.name.startswith("."))
    return [path for path in visible if path.suffix.lower() not in _SIDECAR_SUFFIXES]


def _read(path: Path, limits: ImageLimits) -> bytes:
    """Read at most one byte more than allowed, so that a huge file is never in memory."""
    try:
        path.name.encode()  # artifacts and messages contain the name
        if not path.is_file():
            raise InvalidImageError("not a file; remove it")
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except UnicodeEncodeError as error:
        raise InvalidImageError("its name is not valid UTF-8; rename it") from error
    except OSError as error:
        raise InvalidImageError(f"cannot be read ({error.strerror})") from error


def decode_image(name: str, data: bytes, *, limits: ImageLimits = _DEFAULT_LIMITS) -> SubjectImage:
    """Decode the bytes of an image file to sRGB, whatever its name says.

    What the file states is obeyed: its orientation, its colours (see `color_profiles`), its bit
    depth and its transparency, which becomes white. Animations are rejected, as it is unknown which
    frame is meant. The extra images that phones append are no animation: the first, or the one that
    a HEIC file calls primary, is the photo.

    Raises: InvalidImageError with the reason.
    """
    image = _decode(data, limits, _photo)
    return SubjectImage(name, image, hashlib.sha256(data).hexdigest(), image.size)


def decode_mask(data: bytes, *, limits: ImageLimits = _DEFAULT_LIMITS) -> Image.Image:
    """Decode a mask from the bytes of an image file: upright, greyscale, black where transparent.

    Its values are shares of the subject and no colours, so profiles are left out.

    Raises: InvalidImageError with the reason, as for an image.
    """
    return _decode(data, limits, _mask)


def decode_alpha(data: bytes, *, limits: ImageLimits = _DEFAULT_LIMITS) -> Image.Image:
    """Decode the transparency of an image as a mask: upright, white where it is opaque.

    Raises: InvalidImageError with the reason, also if nothing of it is transparent.
    """
    return _decode(data, limits, _alpha)


def _decode(
    data: bytes, limits: ImageLimits, convert: Callable[[Image.Image, bytes], Image.Image]
) -> Image.Image:
    """Open a file within limits and convert its image."""
    if len(data) > limits.max_bytes:
        raise InvalidImageError(f"larger than {limits.max_bytes / 1e6:g} MB")
    if reason := reading_error(image_format(data)):
        raise InvalidImageError(reason)
    try:
        with Image.open(BytesIO(data), formats=DECODERS) as opened:
            _check_header(opened, limits)
            opened.load()  # here, as damage shows once: Pillow is silent about it the next time
            return convert(opened, data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"claims more than {limits.max_megapixels:g} megapixels") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError(f"its content is not {READABLE}, or is damaged") from error
    except _DECODER_ERRORS as error:
        raise InvalidImageError(f"damaged or cut short ({error})") from error


def _photo(opened: Image.Image, data: bytes) -> Image.Image:
    profiles = declared_profiles(opened, data)
    colours, alpha = _separated(_upright(opened), data)
    image = to_srgb(colours, profiles)
    return image if alpha is None else _composited(image, alpha, "white")


def _mask(opened: Image.Image, data: bytes) -> Image.Image:
    levels, alpha = _separated(_upright(opened), data)
    if alpha is not None:
        levels = _composited(levels.convert("RGB"), alpha, "black")
    return levels.convert("L")


def _alpha(opened: Image.Image, data: bytes) -> Image.Image:
    _, alpha = _separated(_upright(opened), data)
    if alpha is None or alpha.getextrema() == (255, 255):
        raise InvalidImageError("nothing of it is transparent; give a mask as a file, or none")
    return alpha


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    """Reject an image by its header; no pixel is decoded yet. Raises: InvalidImageError."""
    width, height = image.size
    if width * height > limits.max_megapixels * 1e6:
        raise InvalidImageError(
            f"{width} x {height} px, more than {limits.max_megapixels:g} megapixels; scale it down"
        )
    if min(width, height) < limits.min_side_px:
        raise InvalidImageError(
            f"{width} x {height} px; both sides must be at least {limits.min_side_px} px"
        )
    if image.format not in ("MPO", "HEIF") and getattr(image, "is_animated", False):
        raise InvalidImageError("animated; save the frame that shows the subject as an image")


def _upright(image: Image.Image) -> Image.Image:
    transpose = _TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if transpose is None else image.transpose(transpose)


def _separated(image: Image.Image, data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours as 8-bit L, RGB or CMYK, and the alpha as L, or None if all is opaque."""
    if not image.has_transparency_data:
        return _colours(image), None
    key = image.info.get("transparency")
    if image.mode == "I;16" and isinstance(key, int):
        return _colours(image), _keyed_16_bits(image, key)
    if image.mode == "L" and isinstance(key, int):
        # PNG states the colour in the depth of the file, and Pillow spreads pixels to 8 bits.
        image.info["transparency"] = key * 255 // (2 ** min(_png_depth(data), 8) - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and _png_depth(data) == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # Pillow keeps these 8
    mode = "LA" if image.mode in ("1", "L", "LA", "La") else "RGBA"
    converted = image if image.mode == mode else image.convert(mode)
    return converted.convert(mode[:-1]), converted.getchannel("A")


def _colours(image: Image.Image) -> Image.Image:
    """Return an opaque image in a mode that colour profiles know."""
    if image.mode == "I;16":
        # Pillow would clip 16-bit grey to white; the high bytes (little-endian) are the 8-bit grey.
        return Image.frombytes("L", image.size, image.tobytes()[1::2])
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _keyed_16_bits(image: Image.Image, key: int) -> Image.Image:
    """Return the alpha of 16-bit grey of which one level is transparent."""
    levels = image.tobytes()
    low, high = (Image.frombytes("L", image.size, levels[byte::2]) for byte in (0, 1))
    return ImageChops.lighter(
        low.point([255 * (level != key & 255) for level in range(256)]),
        high.point([255 * (level != key >> 8) for level in range(256)]),
    )


def _png_depth(data: bytes) -> int:
    """Return the bits of a sample, from the header of a PNG, the only format with such a key."""
    return data[24]


def _composited(image: Image.Image, alpha: Image.Image, background: str) -> Image.Image:
    # A pixel that is fully transparent has an arbitrary colour, which a plain conversion to RGB
    # would bring to light.
    image.putalpha(alpha)
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image).convert("RGB")
