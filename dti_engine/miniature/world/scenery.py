"""The scenery of the world: canvas, accessories, backgrounds in four versions each, and styles.

The canvas is larger than the final image, so that edges become smooth when it is reduced.
Accessories have their own colours, whatever the figure's. A style turns the canvas into the final
image.
"""

import functools
import math

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from dti_engine.miniature.world.scenes import Figure
from dti_engine.miniature.world.shapes import HEADS, NECKS
from dti_engine.miniature.world.vocabulary import Colour

SIZE = 64  # side of a final image in pixels
ZOOM = 3
CANVAS = SIZE * ZOOM
_STRETCH = {"slim": (0.78, 1.08), "regular": (1.0, 1.0), "broad": (1.15, 0.82)}


def place(figure: Figure, coordinates: tuple[float, ...]) -> tuple[float, ...]:
    """Map coordinates x, y, x, y, ... from the box of the figure's kind to the canvas."""
    wide, tall = _STRETCH[figure.look.proportions]
    sign = -1 if figure.flipped else 1
    placed: list[float] = []
    for x, y in zip(coordinates[::2], coordinates[1::2], strict=True):
        placed.append((figure.x + sign * x * wide * figure.size) * ZOOM)
        placed.append((figure.y + y * tall * figure.size) * ZOOM)
    return tuple(placed)


Box = tuple[float, float, float, float]

_BLACK: Colour = (18, 16, 24)
_WHITE: Colour = (250, 250, 250)
_RED: Colour = (225, 20, 60)


def draw_accessory(canvas: Image.Image, figure: Figure) -> None:
    """Draw the figure's accessory at the figure's size; draw nothing for `none`."""
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
    """Return a box by its sides left, top, right, bottom, in units from (x, y)."""
    left, top, right, bottom = sides
    return x + left * unit, y + top * unit, x + right * unit, y + bottom * unit


def _hat(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    """Draw a black top hat with a white band."""
    pen.rectangle(_box(x, y, unit, (-0.28, -0.52, 0.28, 0)), fill=_BLACK)
    pen.rectangle(_box(x, y, unit, (-0.28, -0.2, 0.28, -0.06)), fill=_WHITE)
    pen.rectangle(_box(x, y, unit, (-0.5, -0.06, 0.5, 0.07)), fill=_BLACK)


def _scarf(pen: ImageDraw.ImageDraw, neck: Box, unit: float) -> None:
    """Draw a red and white scarf with a hanging end."""
    left, top, right, bottom = neck
    pen.rectangle(neck, fill=_RED)
    end = left + (right - left) * 0.25
    pen.rectangle((end, top, end + 0.24 * unit, bottom + 0.42 * unit), fill=_RED)
    for i in range(1, 6, 2):
        x = left + (right - left) * i / 6
        pen.rectangle((x, top, x + (right - left) / 12, bottom), fill=_WHITE)
    pen.rectangle(_box(end, bottom, unit, (0, 0.12, 0.24, 0.22)), fill=_WHITE)


def _balloon(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    """Draw a magenta balloon on a string."""
    pen.line((x, y, x, y + 1.3 * unit), fill=(30, 30, 30), width=max(2, round(unit * 0.05)))
    pen.ellipse(_box(x, y, unit, (-0.3, -0.38, 0.3, 0.36)), fill=(235, 20, 150))
    pen.ellipse(_box(x, y, unit, (-0.16, -0.24, -0.02, -0.06)), fill=(255, 200, 235))


def _flag(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float, sign: int) -> None:
    """Draw a yellow and blue flag on a white pole, blowing towards the figure."""
    far = x - sign * 0.62 * unit
    left, right = min(x, far), max(x, far)
    pen.rectangle(_box(x, y, unit, (-0.05, -1.25, 0.05, 0.95)), fill=(245, 245, 245))
    pen.rectangle((left, y - 1.25 * unit, right, y - 1.0 * unit), fill=(20, 60, 200))
    pen.rectangle((left, y - 1.0 * unit, right, y - 0.75 * unit), fill=(255, 215, 0))


@functools.lru_cache(maxsize=64)
def background(name: str, version: int) -> Image.Image:
    """Return a background in version 0 to 3, which differ in horizon and small things.

    The result is cached: do not draw on it.
    """
    canvas = Image.new("RGB", (CANVAS, CANVAS))
    _BACKGROUNDS[name](ImageDraw.Draw(canvas), version * 6)
    return canvas


def _ground(pen: ImageDraw.ImageDraw, sky: Colour, ground: Colour, horizon: int) -> None:
    pen.rectangle((0, 0, CANVAS, CANVAS), fill=sky)
    pen.rectangle((0, horizon, CANVAS, CANVAS), fill=ground)


def _beach(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (150, 215, 250), (245, 225, 165), 130 + shift // 2)
    pen.rectangle((0, 92, CANVAS, 130 + shift // 2), fill=(30, 130, 190))
    pen.ellipse((140 - shift, 10, 172 - shift, 42), fill=(255, 240, 130))


def _forest(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (25, 75, 45), (70, 60, 35), 150)
    for x in range(-20 + shift, CANVAS, 46):
        pen.rectangle((x + 14, 30, x + 24, 150), fill=(60, 38, 22))
        pen.ellipse((x - 6, -24, x + 44, 56), fill=(20, 105, 50))


def _snow(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (190, 205, 225), (244, 247, 252), 112 + shift // 2)
    for i in range(16):
        x, y = (i * 53 + shift * 2) % CANVAS, (i * 37 + shift) % 108
        pen.ellipse((x, y, x + 8, y + 8), fill=(255, 255, 255))


def _city(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (250, 190, 150), (110, 110, 118), 150)
    for i, x in enumerate(range(-16 + shift, CANVAS, 44)):
        top = (44, 82, 24, 64)[i % 4]
        pen.rectangle((x, top, x + 36, 150), fill=(105, 95, 130))
        for y in range(top + 10, 140, 30):
            pen.rectangle((x + 10, y, x + 25, y + 11), fill=(255, 235, 150))


def _space(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (14, 12, 44), (14, 12, 44), CANVAS)
    for i in range(22):
        x, y = (i * 71 + shift * 3) % CANVAS, (i * 43 + shift) % CANVAS
        pen.ellipse((x, y, x + 5, y + 5), fill=(240, 240, 255))
    pen.ellipse((8 + shift, 8, 52 + shift, 52), fill=(200, 130, 90))


def _desert(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (255, 205, 110), (225, 140, 70), 120)
    pen.ellipse((-60 + shift, 96, 90 + shift, 200), fill=(225, 140, 70))
    pen.rectangle((166 - shift // 2, 70, 178 - shift // 2, 140), fill=(50, 120, 60))
    pen.rectangle((152 - shift // 2, 84, 160 - shift // 2, 108), fill=(50, 120, 60))
    pen.rectangle((152 - shift // 2, 102, 178 - shift // 2, 110), fill=(50, 120, 60))


def _meadow(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (170, 225, 255), (120, 200, 70), 120)
    pen.ellipse((-70 - shift, 84, 120 - shift, 240), fill=(120, 200, 70))
    pen.ellipse((110 + shift, 14, 176 + shift, 38), fill=(255, 255, 255))
    for i in range(10):
        x, y = (i * 47 + shift) % CANVAS, 140 + (i * 29) % 46
        pen.ellipse((x, y, x + 7, y + 7), fill=(250, 120, 160))


_BACKGROUNDS = {
    "beach": _beach,
    "forest": _forest,
    "snow": _snow,
    "city": _city,
    "space": _space,
    "desert": _desert,
    "meadow": _meadow,
}


def finish(canvas: Image.Image, style: str) -> Image.Image:
    """Return the final image, SIZE x SIZE, of a canvas in this style."""
    return _STYLES[style](canvas)


def _reduced(canvas: Image.Image) -> Image.Image:
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


@functools.cache
def _vignette() -> Image.Image:
    mask = Image.radial_gradient("L").resize((SIZE, SIZE))
    return mask.point([max(0, round((value - 120) * 0.9)) for value in range(256)])


def _photo(canvas: Image.Image) -> Image.Image:
    """Darken the corners, as a lens does."""
    image = _reduced(canvas)
    image.paste((12, 8, 20), mask=_vignette())
    return image


def _cartoon(canvas: Image.Image) -> Image.Image:
    """Brighten the colours and add a thick black frame; outlines are drawn with the figures."""
    image = ImageEnhance.Color(_reduced(canvas)).enhance(1.25)
    ImageDraw.Draw(image).rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(10, 10, 12), width=3)
    return image


@functools.cache
def _paper() -> Image.Image:
    """Return the mask of the paint: everything but a ragged margin."""
    mask = Image.new("L", (CANVAS, CANVAS))
    points: list[float] = []
    for i in range(72):
        angle = 2 * math.pi * i / 72
        reach = CANVAS * (0.53 + 0.035 * math.sin(7 * angle) + 0.02 * math.sin(17 * angle))
        for offset in (reach * math.cos(angle) * 1.12, reach * math.sin(angle) * 1.12):
            points.append(max(9, min(CANVAS - 9, CANVAS / 2 + offset)))
    ImageDraw.Draw(mask).polygon(points, fill=185)
    return mask.filter(ImageFilter.GaussianBlur(3))


def _watercolor(canvas: Image.Image) -> Image.Image:
    """Make the canvas pale and soft, on white paper."""
    paper = Image.new("RGB", canvas.size, (252, 248, 240))
    paper.paste(canvas.filter(ImageFilter.GaussianBlur(2.5)), mask=_paper())
    return _reduced(paper)


@functools.cache
def _joints() -> Image.Image:
    mask = Image.new("L", (SIZE, SIZE))
    pen = ImageDraw.Draw(mask)
    for i in range(0, SIZE, 8):
        pen.line((i, 0, i, SIZE), fill=215)
        pen.line((0, i, SIZE, i), fill=215)
    return mask


def _mosaic(canvas: Image.Image) -> Image.Image:
    """Divide the canvas into tiles of eight pixels with dark joints."""
    image = _reduced(canvas)
    image.paste((40, 40, 45), mask=_joints())
    return image


_STYLES = {"photo": _photo, "cartoon": _cartoon, "watercolor": _watercolor, "mosaic": _mosaic}
