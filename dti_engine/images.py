"""A subject's pictures: read from a folder, judged, cut into square crops; and their captions.

Pictures come from anyone: a file is judged by its content, by its header before it is decoded, and
all that is wrong with a folder is said at once. Knows nothing of models or of training.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from dti_engine.config import CaptionFamily
from dti_engine.errors import ConfigurationError, InvalidImageError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SIDECAR_SUFFIXES = frozenset({".txt", ".json"})
_FORMATS = ("JPEG", "PNG", "WEBP")
_DECODER_ERRORS = (OSError, SyntaxError, ValueError)  # what Pillow raises at damaged files

# What undoes each EXIF orientation. Pillow's exif_transpose knows the same, but it also writes all
# other tags anew, and so fails at a picture if any tag is malformed.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SHOTS = (
    "a photo",
    "a close-up photo",
    "a sharp photo",
    "a bright photo",
    "a dim photo",
    "a cropped photo",
    "a studio photo",
    "a detailed picture",
    "a small picture",
    "a snapshot",
)
_WORKS = ("a picture", "a painting", "a drawing", "a sketch", "an illustration", "a print")
_MANNERS = ("in the style of {}", "in {} style")

CAPTION_TEMPLATES: Mapping[CaptionFamily, tuple[str, ...]] = {
    "object": tuple(f"{shot} of {article} {{}}" for shot in _SHOTS for article in ("a", "the")),
    "style": tuple(f"{work} {manner}" for work in _WORKS for manner in _MANNERS),
    "person": tuple(f"{shot} of {{}}" for shot in (*_SHOTS, "a portrait", "a candid portrait")),
    "miniature": ("a photo of a {}", "a {}", "a {}, photo style"),  # of the few words that it knows
}
"""Training captions by family; the placeholder takes the place of `{}`."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a file may be. Pillow's own limit, near 179 megapixels, holds whatever stands here."""

    max_bytes: int = 50_000_000
    max_megapixels: float = 64.0
    min_side_px: int = 32


_DEFAULT_LIMITS = PictureLimits()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture: upright, RGB, on white where it was transparent."""

    name: str
    image: Image.Image
    sha256: str  # of the bytes of the file
    original_size: tuple[int, int]  # (width, height) in pixels, upright


def load_pictures(folder: str | Path, *, limits: PictureLimits = _DEFAULT_LIMITS) -> list[Picture]:
    """All pictures of a folder, JPEG, PNG or WebP, in the order of their names.

    Hidden files and `.txt` and `.json` files are passed over; anything else is refused.

    Raises: InvalidImageError, which lists all refused files and why, or says there is none.
    """
    pictures: list[Picture] = []
    refusals: list[str] = []
    for path in _entries(Path(folder)):
        try:
            pictures.append(decode_picture(path.name, _read(path, limits), limits=limits))
        except InvalidImageError as reason:
            refusals.append(f"\n  {path.name!r}: {reason}")
    if refusals:
        num_files = len(refusals) + len(pictures)
        raise InvalidImageError(
            f"{len(refusals)} of {num_files} files in {str(folder)!r} refused:{''.join(refusals)}"
        )
    if not pictures:
        raise InvalidImageError(
            f"no pictures in {str(folder)!r}: put JPEG, PNG or WebP files there"
        )
    return pictures


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise InvalidImageError(
            f"cannot list {str(folder)!r} ({error.strerror}): give a folder of pictures"
        ) from error
    visible = (path for path in entries if not path.name.startswith("."))
    return [path for path in visible if path.suffix.lower() not in _SIDECAR_SUFFIXES]


def _read(path: Path, limits: PictureLimits) -> bytes:
    """The file's bytes, at most one more than allowed, so that a giant is never held."""
    try:
        path.name.encode()  # artifacts and messages carry the name
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            raise InvalidImageError("not a JPEG, PNG or WebP file; convert it or take it away")
        with path.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except UnicodeEncodeError as error:
        raise InvalidImageError("its name is not valid UTF-8; rename it") from error
    except OSError as error:
        raise InvalidImageError(f"cannot be read ({error.strerror})") from error


def decode_picture(name: str, data: bytes, *, limits: PictureLimits = _DEFAULT_LIMITS) -> Picture:
    """The picture in the bytes of a JPEG, PNG or WebP file, whatever its name says.

    Animations are refused, as nobody said which frame is meant. The extra pictures that phones
    append to a JPEG (format MPO) are no animation: the first is the photo.

    Raises: InvalidImageError with the reason.
    """
    if len(data) > limits.max_bytes:
        raise InvalidImageError(f"larger than {limits.max_bytes / 1e6:g} MB")
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as opened:
            _judge_header(opened, limits)
            image = _on_white(_upright(opened))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError(f"claims more than {limits.max_megapixels:g} megapixels") from error
    except UnidentifiedImageError as error:
        raise InvalidImageError("its content is not JPEG, PNG or WebP, or is damaged") from error
    except _DECODER_ERRORS as error:
        raise InvalidImageError(f"damaged or cut short ({error})") from error
    return Picture(name, image, hashlib.sha256(data).hexdigest(), image.size)


def _judge_header(image: Image.Image, limits: PictureLimits) -> None:
    """Refuse what the header alone condemns; no pixel is decoded yet."""
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
        raise InvalidImageError("animated; save the frame that shows the subject as a picture")


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        # Pillow would clip 16-bit grey to white; the high bytes are the same grey in 8 bits.
        image = Image.frombytes("L", image.size, image.tobytes()[1::2])
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def crops(picture: Picture, size: int, *, max_crops: int) -> list[Image.Image]:
    """Squares of size x size px that span the shorter side of the picture: the aspect is kept.

    A square picture has one; another has up to `max_crops`, evenly spaced from end to end, or the
    one at the centre if `max_crops` is 1.

    Raises: ConfigurationError if size or max_crops is below 1.
    """
    if size < 1 or max_crops < 1:
        raise ConfigurationError(f"size and max_crops must be >= 1, got {size} and {max_crops}")
    width, height = picture.image.size
    side = min(width, height)
    slack = max(width, height) - side
    count = min(max_crops, 1 + round(slack * size / side))  # no two less than a pixel apart
    starts = [slack * i / (count - 1) for i in range(count)] if count > 1 else [slack / 2]
    corners = [(start, 0.0) if width > height else (0.0, start) for start in starts]
    # Each is resized on its own: the whole of a long thin picture could be huge once enlarged.
    return [
        picture.image.resize((size, size), Image.Resampling.LANCZOS, (x, y, x + side, y + side))
        for x, y in corners
    ]


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size as (B, 3, H, W) float32 in [-1, 1].

    Raises: ConfigurationError if there are none, or they differ in size or are not RGB.
    """
    kinds = sorted({(image.mode, image.size) for image in images})
    if len(kinds) != 1 or kinds[0][0] != "RGB":
        raise ConfigurationError(f"images must be RGB and all of one size, got {kinds or 'none'}")
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))  # (B, H, W, 3)
    return pixels.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1
