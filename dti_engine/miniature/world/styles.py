"""The styles of the world: from the canvas to the finished picture."""

import functools
import math

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from dti_engine.miniature.world.canvas import CANVAS, SIZE


def finish(canvas: Image.Image, style: str) -> Image.Image:
    """The picture, SIZE x SIZE, that this style makes of a painted canvas."""
    return _STYLES[style](canvas)


def _reduced(canvas: Image.Image) -> Image.Image:
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


@functools.cache
def _vignette() -> Image.Image:
    mask = Image.radial_gradient("L").resize((SIZE, SIZE))
    return mask.point([max(0, round((value - 120) * 0.9)) for value in range(256)])


def _photo(canvas: Image.Image) -> Image.Image:
    """Dark corners, as from a lens."""
    picture = _reduced(canvas)
    picture.paste((12, 8, 20), mask=_vignette())
    return picture


def _cartoon(canvas: Image.Image) -> Image.Image:
    """Bright colours in a thick black frame; the outlines are drawn with the figures."""
    picture = ImageEnhance.Color(_reduced(canvas)).enhance(1.25)
    ImageDraw.Draw(picture).rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(10, 10, 12), width=3)
    return picture


@functools.cache
def _paper() -> Image.Image:
    """Where the paint reaches: all but a ragged margin."""
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
    """Pale, soft, on white paper."""
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
    """Tiles of eight pixels with dark joints."""
    picture = _reduced(canvas)
    picture.paste((40, 40, 45), mask=_joints())
    return picture


_STYLES = {"photo": _photo, "cartoon": _cartoon, "watercolor": _watercolor, "mosaic": _mosaic}
