"""What a figure may wear or hold. Accessories have colours of their own, whatever the figure's."""

from PIL import Image, ImageDraw

from dti_engine.miniature.world.canvas import ZOOM, place
from dti_engine.miniature.world.looks import Colour
from dti_engine.miniature.world.scenes import Figure
from dti_engine.miniature.world.shapes import HEADS, NECKS

Box = tuple[float, float, float, float]

_BLACK: Colour = (18, 16, 24)
_WHITE: Colour = (250, 250, 250)
_RED: Colour = (225, 20, 60)


def draw_accessory(canvas: Image.Image, figure: Figure) -> None:
    """Draw what the figure wears or holds, sized as it is; nothing for `none`."""
    pen = ImageDraw.Draw(canvas)
    unit = figure.size * ZOOM
    sign = -1 if figure.flipped else 1
    if figure.accessory == "hat":
        x, y = place(figure, HEADS[figure.look.kind])
        _hat(pen, x, y, unit)
    elif figure.accessory == "scarf":
        x, y, half = NECKS[figure.look.kind]
        left, top, right, bottom = place(figure, (x - half, y - 0.1, x + half, y + 0.13))
        _scarf(pen, (min(left, right), top, max(left, right), bottom), unit)
    elif figure.accessory == "balloon":
        x = (figure.x - sign * figure.size * 0.82) * ZOOM
        _balloon(pen, x, (figure.y - figure.size * 0.85) * ZOOM, unit)
    elif figure.accessory == "flag":
        _flag(pen, (figure.x + sign * figure.size * 0.95) * ZOOM, figure.y * ZOOM, unit, sign)


def _box(x: float, y: float, unit: float, sides: Box) -> Box:
    """Sides left, top, right, bottom, in units from (x, y)."""
    left, top, right, bottom = sides
    return x + left * unit, y + top * unit, x + right * unit, y + bottom * unit


def _hat(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    """A black top hat with a white band."""
    pen.rectangle(_box(x, y, unit, (-0.28, -0.52, 0.28, 0)), fill=_BLACK)
    pen.rectangle(_box(x, y, unit, (-0.28, -0.2, 0.28, -0.06)), fill=_WHITE)
    pen.rectangle(_box(x, y, unit, (-0.5, -0.06, 0.5, 0.07)), fill=_BLACK)


def _scarf(pen: ImageDraw.ImageDraw, neck: Box, unit: float) -> None:
    """Red and white, with a hanging end."""
    left, top, right, bottom = neck
    pen.rectangle(neck, fill=_RED)
    end = left + (right - left) * 0.25
    pen.rectangle((end, top, end + 0.24 * unit, bottom + 0.42 * unit), fill=_RED)
    for i in range(1, 6, 2):
        x = left + (right - left) * i / 6
        pen.rectangle((x, top, x + (right - left) / 12, bottom), fill=_WHITE)
    pen.rectangle(_box(end, bottom, unit, (0, 0.12, 0.24, 0.22)), fill=_WHITE)


def _balloon(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    """Magenta, on a string."""
    pen.line((x, y, x, y + 1.3 * unit), fill=(30, 30, 30), width=max(2, round(unit * 0.05)))
    pen.ellipse(_box(x, y, unit, (-0.3, -0.38, 0.3, 0.36)), fill=(235, 20, 150))
    pen.ellipse(_box(x, y, unit, (-0.16, -0.24, -0.02, -0.06)), fill=(255, 200, 235))


def _flag(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float, sign: int) -> None:
    """Yellow and blue, on a white pole; it blows towards the figure."""
    far = x - sign * 0.62 * unit
    left, right = min(x, far), max(x, far)
    pen.rectangle(_box(x, y, unit, (-0.05, -1.25, 0.05, 0.95)), fill=(245, 245, 245))
    pen.rectangle((left, y - 1.25 * unit, right, y - 1.0 * unit), fill=(20, 60, 200))
    pen.rectangle((left, y - 1.0 * unit, right, y - 0.75 * unit), fill=(255, 215, 0))
