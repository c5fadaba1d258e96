"""Images that stand in a page itself, as data URIs.

Pages that need nothing beside them: their templates, and words that they share.
"""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from PIL import Image

from dti_engine.errors import InvalidImageError
from dti_engine.images.decode import ImageLimits, decode_image


def template(folder: Path) -> Template:
    """`page.html.jinja` of a folder; it may include `style.css`, the look that pages share."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def duration(seconds: float) -> str:
    """As people say it: 3.2 s, 48 s, 5 min 03 s, 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def with_token(prompt: str, placeholder: str) -> Markup:
    """The prompt with its placeholder set off."""
    name = escape(placeholder)
    return Markup(escape(prompt).replace(name, Markup("<b>{}</b>").format(placeholder)))


_LIMITS = ImageLimits(min_side_px=1)
_SMALL_BYTES = 12_000  # of a file that is taken as it is
_QUALITY = 82  # of JPEG


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image, and its size in pixels."""

    uri: str
    width: int
    height: int


def data_uri(data: bytes, media_type: str) -> str:
    """A file's content as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def thumbnail(path: Path, *, side: int) -> Thumbnail:
    """The image of a file; both sides have at most so many pixels.

    A small PNG or JPEG is taken as it is, the rest becomes JPEG.

    Raises: InvalidImageError if the file cannot be read or is no image.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMITS.max_bytes + 1)
    except OSError as error:
        raise InvalidImageError(f"cannot be read ({error.strerror})") from error
    inline_image = decode_image(path.name, data, limits=_LIMITS).image
    media_type = _media_type(data)
    if media_type and len(data) <= _SMALL_BYTES and max(inline_image.size) <= side:
        return Thumbnail(data_uri(data, media_type), *inline_image.size)
    small = BytesIO()
    inline_image.thumbnail((side, side), Image.Resampling.LANCZOS)
    inline_image.save(small, "JPEG", quality=_QUALITY)
    return Thumbnail(data_uri(small.getvalue(), "image/jpeg"), *inline_image.size)


def _media_type(data: bytes) -> str | None:
    """By the first bytes, of the two formats that the engine writes."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if data.startswith(b"\xff\xd8") else None
