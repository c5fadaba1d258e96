"""Scene -> picture. Drawn three times too large with PIL and reduced, so that edges are smooth.

Pure functions of the scene: the same scene gives the same pixels.
"""

import functools
import math

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from dti_engine.miniature.looks import COLOURS, Colour, Look
from dti_engine.miniature.shapes import HEADS, NECKS, SHAPES, Part
from dti_engine.miniature.world import Figure, Scene

SIZE = 64
_ZOOM = 3
_CANVAS = SIZE * _ZOOM
_DARK: Colour = (52, 48, 52)
_LIGHT: Colour = (235, 245, 250)
_STRETCH = {"slim": (0.78, 1.08), "regular": (1.0, 1.0), "broad": (1.15, 0.82)}


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of SIZE x SIZE."""
    canvas = _background(scene.background, round(scene.jitter * 3)).copy()
    for figure in scene.figures:
        _draw_figure(canvas, figure, outlined=scene.style == "cartoon")
    return _STYLERS[scene.style](canvas)


# --- figures ---------------------------------------------------------------------------------------------------------


def _draw_figure(canvas: Image.Image, figure: Figure, *, outlined: bool) -> None:
    look = figure.look
    body, part = Image.new("L", canvas.size), Image.new("L", canvas.size)
    for role, shape, coordinates in SHAPES[look.kind]:
        if role in ("body", "part"):
            _fill(body if role == "body" else part, shape, _place(figure, coordinates), 255)
    silhouette = ImageChops.lighter(body, part)
    if outlined:
        canvas.paste((10, 10, 12), mask=silhouette.filter(ImageFilter.MaxFilter(9)))
    # Parts are painted in the order of the table, so that wheels lie over the body and ears over the head.
    for role, shape, coordinates in SHAPES[look.kind]:
        _paint_part(canvas, figure, (role, shape, coordinates))
    _draw_mark(canvas, figure)
    _draw_accessory(canvas, figure)


def _paint_part(canvas: Image.Image, figure: Figure, part: Part) -> None:
    role, shape, coordinates = part
    look = figure.look
    mask = Image.new("L", canvas.size)
    _fill(mask, shape, _place(figure, coordinates), 255)
    canvas.paste(_role_colour(role, look), mask=mask)
    if role == "body" and look.pattern in ("striped", "spotted"):
        pattern = ImageChops.offset(
            _pattern(look.pattern, round(figure.size * _ZOOM)),
            round(figure.x * _ZOOM),
            round(figure.y * _ZOOM),
        )
        canvas.paste(COLOURS[look.secondary], mask=ImageChops.multiply(mask, pattern))


def _role_colour(role: str, look: Look) -> Colour:
    if role == "body":
        return COLOURS[look.primary]
    if role == "part":
        return (
            COLOURS[look.secondary] if look.pattern == "trimmed" else _shade(COLOURS[look.primary])
        )
    return _DARK if role == "dark" else _LIGHT


def _shade(colour: Colour) -> Colour:
    """A little darker, or lighter for what is nearly black."""
    if sum(colour) < 120:
        return (70, 70, 76)
    red, green, blue = colour
    return round(red * 0.8), round(green * 0.8), round(blue * 0.8)


@functools.lru_cache(maxsize=64)
def _pattern(pattern: str, radius: int) -> Image.Image:
    """Stripes or spots over the whole canvas, their period a fixed share of the figure's size."""
    mask = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(mask)
    period = max(4, round(radius * 0.42))
    if pattern == "striped":
        for x in range(0, _CANVAS, period):
            pen.rectangle((x, 0, x + period // 2 - 1, _CANVAS), fill=255)
        return mask
    spot = period * 0.34
    for row, y in enumerate(range(0, _CANVAS, period)):
        for x in range(0 if row % 2 else period // 2, _CANVAS, period):
            pen.ellipse((x - spot, y - spot, x + spot, y + spot), fill=255)
    return mask


def _place(figure: Figure, coordinates: tuple[float, ...]) -> tuple[float, ...]:
    """From the kind's box to the canvas."""
    wide, tall = _STRETCH[figure.look.proportions]
    sign = -1 if figure.flipped else 1
    placed: list[float] = []
    for x, y in zip(coordinates[::2], coordinates[1::2], strict=True):
        placed.append((figure.x + sign * x * wide * figure.size) * _ZOOM)
        placed.append((figure.y + y * tall * figure.size) * _ZOOM)
    return tuple(placed)


def _fill(
    mask: Image.Image, shape: str, coordinates: tuple[float, ...], value: int | Colour
) -> None:
    pen = ImageDraw.Draw(mask)
    if shape == "polygon":
        pen.polygon(coordinates, fill=value)
        return
    left, top, right, bottom = coordinates
    box = (min(left, right), top, max(left, right), bottom)
    if shape == "box":
        pen.rectangle(box, fill=value)
    elif shape == "ellipse":
        pen.ellipse(box, fill=value)
    elif shape == "ring":
        pen.ellipse(box, outline=value, width=max(3, round((bottom - top) * 0.22)))
    elif shape == "dome":
        pen.pieslice(box, 180, 360, fill=value)


def _draw_mark(canvas: Image.Image, figure: Figure) -> None:
    if figure.look.mark == "none":
        return
    pen = ImageDraw.Draw(canvas)
    x, y = _place(figure, (0.0, 0.22))
    radius = figure.size * _ZOOM * 0.2
    if figure.look.mark == "ring":
        pen.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            outline=_LIGHT,
            width=round(radius * 0.5),
        )
        return
    corners = [
        (x + r * math.sin(math.pi * i / 5), y - r * math.cos(math.pi * i / 5))
        for i, r in enumerate([radius * 1.3, radius * 0.55] * 5)
    ]
    pen.polygon(corners, fill=(255, 250, 120), outline=_DARK)


# --- accessories -----------------------------------------------------------------------------------------------------


def _draw_accessory(canvas: Image.Image, figure: Figure) -> None:
    if figure.accessory == "none":
        return
    pen = ImageDraw.Draw(canvas)
    unit = figure.size * _ZOOM
    sign = -1 if figure.flipped else 1
    head_x, head_y = _place(figure, HEADS[figure.look.kind])
    if figure.accessory == "hat":
        _hat(pen, head_x, head_y, unit)
    elif figure.accessory == "scarf":
        x, y, half = NECKS[figure.look.kind]
        left, top, right, bottom = _place(figure, (x - half, y - 0.1, x + half, y + 0.13))
        _scarf(pen, min(left, right), top, max(left, right), bottom, unit)
    elif figure.accessory == "balloon":
        x = (figure.x - sign * figure.size * 0.82) * _ZOOM
        _balloon(pen, x, (figure.y - figure.size * 0.85) * _ZOOM, unit)
    elif figure.accessory == "flag":
        _flag(pen, (figure.x + sign * figure.size * 0.95) * _ZOOM, figure.y * _ZOOM, unit, sign)


def _hat(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    """A black top hat with a white band."""
    pen.rectangle((x - 0.28 * unit, y - 0.52 * unit, x + 0.28 * unit, y), fill=(18, 16, 24))
    pen.rectangle(
        (x - 0.28 * unit, y - 0.2 * unit, x + 0.28 * unit, y - 0.06 * unit), fill=(250, 250, 250)
    )
    pen.rectangle(
        (x - 0.5 * unit, y - 0.06 * unit, x + 0.5 * unit, y + 0.07 * unit), fill=(18, 16, 24)
    )


def _scarf(
    pen: ImageDraw.ImageDraw, left: float, top: float, right: float, bottom: float, unit: float
) -> None:
    """Red and white, with a hanging end."""
    pen.rectangle((left, top, right, bottom), fill=(225, 20, 60))
    end = left + (right - left) * 0.25
    pen.rectangle((end, top, end + 0.24 * unit, bottom + 0.42 * unit), fill=(225, 20, 60))
    for i in range(1, 6, 2):
        x = left + (right - left) * i / 6
        pen.rectangle((x, top, x + (right - left) / 12, bottom), fill=(250, 250, 250))
    pen.rectangle(
        (end, bottom + 0.12 * unit, end + 0.24 * unit, bottom + 0.22 * unit), fill=(250, 250, 250)
    )


def _balloon(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    """Magenta, on a string."""
    pen.line((x, y, x, y + 1.3 * unit), fill=(30, 30, 30), width=max(2, round(unit * 0.05)))
    pen.ellipse(
        (x - 0.3 * unit, y - 0.38 * unit, x + 0.3 * unit, y + 0.36 * unit), fill=(235, 20, 150)
    )
    pen.ellipse(
        (x - 0.16 * unit, y - 0.24 * unit, x - 0.02 * unit, y - 0.06 * unit), fill=(255, 200, 235)
    )


def _flag(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float, sign: int) -> None:
    """Yellow and blue, on a white pole."""
    far = x - sign * 0.62 * unit
    left, right = min(x, far), max(x, far)
    pen.rectangle(
        (x - 0.05 * unit, y - 1.25 * unit, x + 0.05 * unit, y + 0.95 * unit), fill=(245, 245, 245)
    )
    pen.rectangle((left, y - 1.25 * unit, right, y - 1.0 * unit), fill=(20, 60, 200))
    pen.rectangle((left, y - 1.0 * unit, right, y - 0.75 * unit), fill=(255, 215, 0))


# --- backgrounds -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _background(name: str, shift: int) -> Image.Image:
    """One of four versions of a place; they differ by where the horizon and the small things are."""
    canvas = Image.new("RGB", (_CANVAS, _CANVAS))
    _BACKGROUNDS[name](ImageDraw.Draw(canvas), shift * 6)
    return canvas


def _ground(pen: ImageDraw.ImageDraw, sky: Colour, ground: Colour, horizon: int) -> None:
    pen.rectangle((0, 0, _CANVAS, _CANVAS), fill=sky)
    pen.rectangle((0, horizon, _CANVAS, _CANVAS), fill=ground)


def _beach(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (150, 215, 250), (245, 225, 165), 130 + shift // 2)
    pen.rectangle((0, 92, _CANVAS, 130 + shift // 2), fill=(30, 130, 190))
    pen.ellipse((140 - shift, 10, 172 - shift, 42), fill=(255, 240, 130))


def _forest(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (25, 75, 45), (70, 60, 35), 150)
    for x in range(-20 + shift, _CANVAS, 46):
        pen.rectangle((x + 14, 30, x + 24, 150), fill=(60, 38, 22))
        pen.ellipse((x - 6, -24, x + 44, 56), fill=(20, 105, 50))


def _snow(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (190, 205, 225), (244, 247, 252), 112 + shift // 2)
    for i in range(16):
        x, y = (i * 53 + shift * 2) % _CANVAS, (i * 37 + shift) % 108
        pen.ellipse((x, y, x + 8, y + 8), fill=(255, 255, 255))


def _city(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (250, 190, 150), (110, 110, 118), 150)
    for i, x in enumerate(range(-16 + shift, _CANVAS, 44)):
        top = (44, 82, 24, 64)[i % 4]
        pen.rectangle((x, top, x + 36, 150), fill=(105, 95, 130))
        for y in range(top + 10, 140, 30):
            pen.rectangle((x + 10, y, x + 25, y + 11), fill=(255, 235, 150))


def _space(pen: ImageDraw.ImageDraw, shift: int) -> None:
    _ground(pen, (14, 12, 44), (14, 12, 44), _CANVAS)
    for i in range(22):
        x, y = (i * 71 + shift * 3) % _CANVAS, (i * 43 + shift) % _CANVAS
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
        x, y = (i * 47 + shift) % _CANVAS, 140 + (i * 29) % 46
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


# --- styles ----------------------------------------------------------------------------------------------------------


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
    """Bright colours in a thick black frame; the figures' outlines are drawn with them."""
    picture = ImageEnhance.Color(_reduced(canvas)).enhance(1.25)
    ImageDraw.Draw(picture).rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(10, 10, 12), width=3)
    return picture


@functools.cache
def _paper() -> Image.Image:
    """Where the paint reaches: all but a ragged margin."""
    mask = Image.new("L", (_CANVAS, _CANVAS))
    points = []
    for i in range(72):
        angle = 2 * math.pi * i / 72
        reach = _CANVAS * (0.53 + 0.035 * math.sin(7 * angle) + 0.02 * math.sin(17 * angle))
        x, y = reach * math.cos(angle) * 1.12, reach * math.sin(angle) * 1.12
        points += [
            max(9, min(_CANVAS - 9, _CANVAS / 2 + x)),
            max(9, min(_CANVAS - 9, _CANVAS / 2 + y)),
        ]
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


_STYLERS = {"photo": _photo, "cartoon": _cartoon, "watercolor": _watercolor, "mosaic": _mosaic}
