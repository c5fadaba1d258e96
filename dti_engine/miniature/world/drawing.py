"""Drawing: a scene to an image, with a background, the figures before it, and a style.

Pure functions of the scene: the same scene gives the same pixels.
"""

import functools
import math
from io import BytesIO

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dti_engine.miniature.world.scenery import (
    CANVAS,
    ZOOM,
    background,
    draw_accessory,
    finish,
    place,
)
from dti_engine.miniature.world.scenes import Figure, Scene
from dti_engine.miniature.world.shapes import SHAPES, Part
from dti_engine.miniature.world.vocabulary import COLOURS, Colour, Look

_INK: Colour = (10, 10, 12)
_DARK: Colour = (52, 48, 52)
_LIGHT: Colour = (235, 245, 250)
_STAR: Colour = (255, 250, 120)


def draw(scene: Scene) -> Image.Image:
    """Return the scene as an RGB image of SIZE x SIZE."""
    canvas = background(scene.background, round(scene.jitter * 3)).copy()
    for figure in scene.figures:
        _draw_figure(canvas, figure, outlined=scene.style == "cartoon")
    return finish(canvas, scene.style)


def _draw_figure(canvas: Image.Image, figure: Figure, *, outlined: bool) -> None:
    if outlined:
        canvas.paste(_INK, mask=_silhouette(figure).filter(ImageFilter.MaxFilter(9)))
    # In the order of the table, so that wheels cover the body and ears the head.
    for part in SHAPES[figure.look.kind]:
        _paint_part(canvas, figure, part)
    _draw_mark(canvas, figure)
    draw_accessory(canvas, figure)


def _silhouette(figure: Figure) -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS))
    for role, shape, coordinates in SHAPES[figure.look.kind]:
        if role in ("body", "part"):
            _fill(mask, shape, place(figure, coordinates))
    return mask


def _paint_part(canvas: Image.Image, figure: Figure, part: Part) -> None:
    role, shape, coordinates = part
    look = figure.look
    mask = Image.new("L", canvas.size)
    _fill(mask, shape, place(figure, coordinates))
    canvas.paste(_role_colour(role, look), mask=mask)
    if role == "body" and look.pattern in ("striped", "spotted"):
        # The pattern moves with the figure, as if it were printed on it.
        pattern = ImageChops.offset(
            _pattern(look.pattern, round(figure.size * ZOOM)),
            round(figure.x * ZOOM),
            round(figure.y * ZOOM),
        )
        canvas.paste(COLOURS[look.secondary], mask=ImageChops.multiply(mask, pattern))


def _role_colour(role: str, look: Look) -> Colour:
    if role == "body":
        return COLOURS[look.primary]
    if role == "part":
        trimmed = look.pattern == "trimmed"
        return COLOURS[look.secondary] if trimmed else _shade(COLOURS[look.primary])
    return _DARK if role == "dark" else _LIGHT


def _shade(colour: Colour) -> Colour:
    """Return a colour a little darker, or lighter if it is nearly black."""
    if sum(colour) < 120:
        return (70, 70, 76)
    red, green, blue = colour
    return round(red * 0.8), round(green * 0.8), round(blue * 0.8)


@functools.lru_cache(maxsize=64)
def _pattern(pattern: str, radius: int) -> Image.Image:
    """Return stripes or spots over the canvas, with a period proportional to the figure's size."""
    mask = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(mask)
    period = max(4, round(radius * 0.42))
    if pattern == "striped":
        for x in range(0, CANVAS, period):
            pen.rectangle((x, 0, x + period // 2 - 1, CANVAS), fill=255)
        return mask
    spot = period * 0.34
    for row, y in enumerate(range(0, CANVAS, period)):
        for x in range(0 if row % 2 else period // 2, CANVAS, period):
            pen.ellipse((x - spot, y - spot, x + spot, y + spot), fill=255)
    return mask


def _fill(mask: Image.Image, shape: str, coordinates: tuple[float, ...]) -> None:
    pen = ImageDraw.Draw(mask)
    if shape == "polygon":
        pen.polygon(coordinates, fill=255)
        return
    left, top, right, bottom = coordinates
    box = (min(left, right), top, max(left, right), bottom)  # mirrored figures swap their sides
    if shape == "box":
        pen.rectangle(box, fill=255)
    elif shape == "ellipse":
        pen.ellipse(box, fill=255)
    elif shape == "ring":
        pen.ellipse(box, outline=255, width=max(3, round((bottom - top) * 0.22)))
    elif shape == "dome":
        pen.pieslice(box, 180, 360, fill=255)


def _draw_mark(canvas: Image.Image, figure: Figure) -> None:
    if figure.look.mark == "none":
        return
    pen = ImageDraw.Draw(canvas)
    x, y = place(figure, (0.0, 0.22))
    radius = figure.size * ZOOM * 0.2
    if figure.look.mark == "ring":
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, outline=_LIGHT, width=round(radius * 0.5))
        return
    corners = [
        (x + r * math.sin(math.pi * i / 5), y - r * math.cos(math.pi * i / 5))
        for i, r in enumerate([radius * 1.3, radius * 0.55] * 5)
    ]
    pen.polygon(corners, fill=_STAR, outline=_DARK)


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the content of a PNG file."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
