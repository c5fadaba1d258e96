"""Self-contained HTML pages: templates, formatted values, and images as data URIs."""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from PIL import Image

from dti_engine.errors import InvalidImageError
from dti_engine.images.decode import ImageLimits, decode_image


def template(*folders: Path) -> Template:
    """Return `page.html.jinja` of the first folder.

    It may include files of the other folders, and `style.css`, the style that pages share.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        # Names and prompts are of users, and pages are opened in a browser.
        autoescape=True,
        # A misspelt name raises, instead of leaving a gap in the page.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def duration(seconds: float) -> str:
    """Return a duration such as 3.2 s, 48 s, 5 min 03 s or 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def with_token(prompt: str, placeholder: str) -> Markup:
    """Return the prompt as HTML, its placeholder in bold."""
    name = escape(placeholder)
    return Markup(escape(prompt).replace(name, Markup("<b>{}</b>").format(placeholder)))


_LIMITS = ImageLimits(min_side_px=1)
_SMALL_BYTES = 12_000  # a file up to this size is embedded unchanged
_JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def data_uri(data: bytes, media_type: str) -> str:
    """Return the content of a file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def thumbnail(path: Path, *, side_px: int) -> Thumbnail:
    """Return the image of a file, both of whose sides have at most `side_px` pixels.

    A small PNG or JPEG is embedded unchanged, everything else becomes JPEG.

    Raises:
        InvalidImageError: The file cannot be read or is not an image.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMITS.max_bytes + 1)
    except OSError as error:
        raise InvalidImageError(f"cannot be read ({error.strerror})") from error
    image = decode_image(path.name, data, limits=_LIMITS).image
    media_type = _media_type(data)
    if media_type and len(data) <= _SMALL_BYTES and max(image.size) <= side_px:
        return Thumbnail(data_uri(data, media_type), *image.size)
    small = BytesIO()
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    image.save(small, "JPEG", quality=_JPEG_QUALITY)
    return Thumbnail(data_uri(small.getvalue(), "image/jpeg"), *image.size)


def _media_type(data: bytes) -> str | None:
    """Return the type of a PNG or JPEG, the two formats that the engine writes."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if data.startswith(b"\xff\xd8") else None
