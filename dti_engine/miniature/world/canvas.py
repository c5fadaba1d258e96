"""The canvas that a scene is drawn on. It is larger than the picture, so that edges become smooth
when it is reduced.
"""

from dti_engine.miniature.world.scenes import Figure

SIZE = 64  # pixels of a finished picture's side
ZOOM = 3
CANVAS = SIZE * ZOOM
_STRETCH = {"slim": (0.78, 1.08), "regular": (1.0, 1.0), "broad": (1.15, 0.82)}


def place(figure: Figure, coordinates: tuple[float, ...]) -> tuple[float, ...]:
    """From the box of the figure's kind to the canvas; coordinates are x, y, x, y, ..."""
    wide, tall = _STRETCH[figure.look.proportions]
    sign = -1 if figure.flipped else 1
    placed: list[float] = []
    for x, y in zip(coordinates[::2], coordinates[1::2], strict=True):
        placed.append((figure.x + sign * x * wide * figure.size) * ZOOM)
        placed.append((figure.y + y * tall * figure.size) * ZOOM)
    return tuple(placed)
