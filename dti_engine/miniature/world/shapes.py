"""The kinds of things, as parts in a box of [-1, 1] x [-1, 1] (x right, y down).

Each part is (role, shape, coordinates). A `body` has the primary colour and the pattern; a `part`
has the secondary colour if there is one; `dark` and `light` are the same on every thing.
"""

import math

Part = tuple[str, str, tuple[float, ...]]


def _ellipse(role: str, x: float, y: float, rx: float, ry: float | None = None) -> Part:
    ry = rx if ry is None else ry
    return role, "ellipse", (x - rx, y - ry, x + rx, y + ry)


def _box(role: str, left: float, top: float, right: float, bottom: float) -> Part:
    return role, "box", (left, top, right, bottom)


def _polygon(role: str, *points: float) -> Part:
    return role, "polygon", points


def _petals(count: int, distance: float, radius: float) -> list[Part]:
    angles = [2 * math.pi * i / count for i in range(count)]
    return [
        _ellipse("body", distance * math.cos(a), distance * math.sin(a) - 0.35, radius)
        for a in angles
    ]


SHAPES: dict[str, list[Part]] = {
    "car": [
        _polygon("part", -0.6, 0.05, -0.35, -0.5, 0.35, -0.5, 0.65, 0.05),
        _polygon("light", -0.42, 0.0, -0.25, -0.36, 0.02, -0.36, 0.02, 0.0),
        _polygon("light", 0.12, 0.0, 0.12, -0.36, 0.27, -0.36, 0.45, 0.0),
        _polygon("body", -1.0, 0.5, -1.0, 0.1, -0.85, -0.02, 0.85, -0.02, 1.0, 0.15, 1.0, 0.5),
        _ellipse("dark", -0.55, 0.5, 0.26), _ellipse("dark", 0.55, 0.5, 0.26),
        _ellipse("light", -0.55, 0.5, 0.1), _ellipse("light", 0.55, 0.5, 0.1),
    ],
    "dog": [
        _polygon("part", -0.65, 0.0, -1.0, -0.5, -0.82, -0.55, -0.45, -0.05),
        _box("body", -0.62, 0.2, -0.38, 0.9), _box("body", 0.12, 0.2, 0.36, 0.9),
        _ellipse("body", -0.12, 0.15, 0.62, 0.4), _ellipse("body", 0.5, -0.42, 0.36),
        _ellipse("body", 0.82, -0.3, 0.2, 0.15), _ellipse("part", 0.28, -0.38, 0.14, 0.34),
        _ellipse("dark", 0.96, -0.36, 0.08), _ellipse("dark", 0.6, -0.52, 0.07),
    ],
    "boat": [
        _box("dark", -0.06, -1.0, 0.06, 0.35),
        _polygon("part", 0.1, -0.95, 0.1, 0.2, 0.8, 0.2),
        _polygon("part", -0.1, -0.7, -0.1, 0.2, -0.65, 0.2),
        _polygon("body", -1.0, 0.3, 1.0, 0.3, 0.65, 0.85, -0.65, 0.85),
    ],
    "tree": [
        _box("part", -0.17, 0.3, 0.17, 1.0),
        _polygon("body", 0.0, -1.0, 0.55, -0.35, -0.55, -0.35),
        _polygon("body", 0.0, -0.65, 0.7, 0.1, -0.7, 0.1),
        _polygon("body", 0.0, -0.25, 0.85, 0.55, -0.85, 0.55),
    ],
    "house": [
        _box("body", -0.75, -0.15, 0.75, 0.9),
        _polygon("part", -0.98, -0.1, 0.0, -0.95, 0.98, -0.1),
        _box("dark", -0.15, 0.35, 0.2, 0.9),
        _box("light", -0.6, 0.1, -0.28, 0.4), _box("light", 0.33, 0.1, 0.62, 0.4),
    ],
    "fish": [
        _polygon("part", -0.45, 0.0, -1.0, -0.5, -1.0, 0.5),
        _polygon("part", -0.2, -0.4, 0.15, -0.8, 0.35, -0.35),
        _ellipse("body", 0.18, 0.0, 0.78, 0.5),
        _ellipse("light", 0.6, -0.12, 0.14), _ellipse("dark", 0.63, -0.12, 0.07),
    ],
    "bird": [
        _box("dark", -0.18, 0.5, -0.1, 0.95), _box("dark", 0.1, 0.5, 0.18, 0.95),
        _polygon("part", -0.5, 0.1, -1.0, -0.15, -0.95, 0.35),
        _ellipse("body", 0.0, 0.15, 0.62, 0.5), _ellipse("body", 0.42, -0.5, 0.34),
        _polygon("dark", 0.7, -0.62, 1.0, -0.45, 0.7, -0.35),
        _polygon("part", -0.4, -0.05, 0.3, 0.0, -0.15, 0.5),
        _ellipse("light", 0.5, -0.58, 0.1), _ellipse("dark", 0.52, -0.58, 0.05),
    ],
    "robot": [
        _box("dark", -0.05, -1.0, 0.05, -0.7), _ellipse("part", 0.0, -0.98, 0.1),
        _box("part", -0.45, -0.8, 0.45, -0.22),
        _ellipse("light", -0.2, -0.52, 0.14), _ellipse("light", 0.2, -0.52, 0.14),
        _box("body", -0.55, -0.15, 0.55, 0.6),
        _box("part", -0.85, -0.1, -0.62, 0.5), _box("part", 0.62, -0.1, 0.85, 0.5),
        _box("dark", -0.4, 0.6, -0.12, 0.98), _box("dark", 0.12, 0.6, 0.4, 0.98),
    ],
    "mug": [
        ("part", "ring", (0.2, -0.45, 0.98, 0.45)),
        _box("body", -0.75, -0.6, 0.5, 0.75),
        _ellipse("dark", -0.125, -0.6, 0.625, 0.18),
    ],
    "rocket": [
        _polygon("dark", -0.2, 0.6, 0.2, 0.6, 0.0, 1.0),
        _polygon("part", -0.35, 0.1, -0.75, 0.75, -0.3, 0.6),
        _polygon("part", 0.35, 0.1, 0.75, 0.75, 0.3, 0.6),
        _polygon("body", -0.38, 0.62, -0.42, -0.3, 0.42, -0.3, 0.38, 0.62),
        _polygon("part", -0.42, -0.3, 0.0, -1.0, 0.42, -0.3),
        _ellipse("light", 0.0, -0.05, 0.18),
    ],
    "mushroom": [
        _polygon("part", -0.3, 0.0, 0.3, 0.0, 0.4, 0.95, -0.4, 0.95),
        ("body", "dome", (-0.95, -0.85, 0.95, 0.95)),
    ],
    "flower": [
        _box("dark", -0.07, 0.0, 0.07, 1.0),
        _polygon("dark", 0.0, 0.8, 0.55, 0.4, 0.2, 0.85),
        *_petals(6, 0.4, 0.28),
        _ellipse("part", 0.0, -0.35, 0.25),
    ],
}  # fmt: skip

# Where accessories sit: (x, y) of the top of the head; (x, y, half width) of the neck.
HEADS: dict[str, tuple[float, float]] = {
    "car": (0.0, -0.48), "dog": (0.5, -0.74), "boat": (0.0, -0.9), "tree": (0.0, -0.85),
    "house": (0.0, -0.82), "fish": (0.3, -0.46), "bird": (0.42, -0.8), "robot": (0.0, -0.8),
    "mug": (-0.125, -0.68), "rocket": (0.0, -0.85),
    "mushroom": (0.0, -0.82), "flower": (0.0, -0.95),
}  # fmt: skip
NECKS: dict[str, tuple[float, float, float]] = {
    "car": (0.0, 0.05, 0.9), "dog": (0.32, -0.08, 0.38), "boat": (0.0, 0.32, 0.85),
    "tree": (0.0, 0.1, 0.6), "house": (0.0, -0.02, 0.8), "fish": (0.25, 0.2, 0.7),
    "bird": (0.25, -0.2, 0.42), "robot": (0.0, -0.16, 0.55), "mug": (-0.12, 0.1, 0.65),
    "rocket": (0.0, 0.3, 0.45), "mushroom": (0.0, 0.18, 0.45), "flower": (0.0, 0.3, 0.4),
}  # fmt: skip
