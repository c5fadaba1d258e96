"""The places of the world, each in four versions."""

import functools

from PIL import Image, ImageDraw

from dti_engine.miniature.world.canvas import CANVAS
from dti_engine.miniature.world.looks import Colour


@functools.lru_cache(maxsize=64)
def background(name: str, version: int) -> Image.Image:
    """A place, in version 0 to 3: horizon and small things lie elsewhere in each.

    Cached: do not draw on it.
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
