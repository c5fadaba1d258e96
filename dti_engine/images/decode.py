"""Decoding of one image file within limits: format, size, EXIF orientation, transparency.

Files are untrusted: their content counts, not their name, and the header is checked before any
pixel is decoded. These are the rules for a single file; `bundles` has those for several together,
and runs this module in a process with limits. Loads neither torch nor numpy.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from dti_engine.errors import InvalidImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SIDECAR_SUFFIXES = frozenset({".txt", ".json"})
# Pillow reads dozens of formats, some with a history of faults, and EPS by starting Ghostscript. An
# untrusted file gets these decoders alone, whatever its first bytes say.
_FORMATS = ("JPEG", "PNG", "WEBP")
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
    """Return all JPEG, PNG and WebP images of a trusted folder, in the order of their names.

    Untrusted files need `bundles.bundle`, which decodes in a process with limits. Hidden files and
    `.txt` and `.json` files are ignored; anything else is rejected.

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
        raise InvalidImageError(f"no images in {str(folder)!r}: put JPEG, PNG or WebP files there")
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
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise InvalidImageError("not a JPEG, PNG or WebP file; convert or remove it")
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except UnicodeEncodeError as error:
        raise InvalidImageError("its name is not valid UTF-8; rename it") from error
    except OSError as error:
        raise InvalidImageError(f"cannot be read ({error.strerror})") from error


def decode_image(name: str, data: bytes, *, limits: ImageLimits = _DEFAULT_LIMITS) -> SubjectImage:
    """Decode the bytes of a JPEG, PNG or WebP file, whatever its name says.

    Animations are rejected, as it is unknown which frame is meant. The extra images that phones
    append to a JPEG (format MPO) are no animation: the first one is the photo.

    Raises: InvalidImageError with the reason.
    """
    image = _decode(data, "RGB", "white", limits)
    return SubjectImage(name, image, hashlib.sha256(data).hexdigest(), image.size)


def decode_mask(data: bytes, *, limits: ImageLimits = _DEFAULT_LIMITS) -> Image.Image:
    """Decode a mask from the bytes of an image file: upright, greyscale, black where transparent.

    Raises: InvalidImageError with the reason, as for an image.
    """
    return _decode(data, "L", "black", limits)


def _decode(data: bytes, mode: str, background: str, limits: ImageLimits) -> Image.Image:
    """Decode to an upright image of that mode, on that colour where it was transparent."""
    if len(data) > limits.max_bytes:
        raise InvalidImageError(f"larger than {limits.max_bytes / 1e6:g} MB")
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as opened:
            _check_header(opened, limits)
            return _composite(background, _to_8_bits(_upright(opened))).convert(mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"claims more than {limits.max_megapixels:g} megapixels") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError("its content is not JPEG, PNG or WebP, or is damaged") from error
    except _DECODER_ERRORS as error:
        raise InvalidImageError(f"damaged or cut short ({error})") from error


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
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InvalidImageError("animated; save the frame that shows the subject as an image")


def _upright(image: Image.Image) -> Image.Image:
    transpose = _TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if transpose is None else image.transpose(transpose)


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode != "I;16":
        return image
    # Pillow would clip 16-bit grey to white; the high bytes (little-endian) are the 8-bit grey.
    return Image.frombytes("L", image.size, image.tobytes()[1::2])


def _composite(background: str, image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    # A pixel that is fully transparent has an arbitrary colour, which a plain conversion to RGB
    # would bring to light.
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image.convert("RGBA"))
